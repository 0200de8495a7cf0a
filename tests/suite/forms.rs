//! The forms of the operations in whole models: they say the same, and the lean one keeps what it
//! promises.

use std::collections::BTreeMap;

use burn::data::dataloader::batcher::Batcher;
use burn::module::Module;
use burn::optim::GradientsParams;
use burn::prelude::*;
use burn::tensor::FloatDType;
use data::encoded::EncodedQuestion;
use model::fused::{Form, in_form};
use model::load::tiny::{self, RandomWeights};
use model::{
    AdapterConfig, DropoutSeed, Llama, LoraConfig, MixLoraConfig, MixtureWeights, Placement,
};
use train::forward;
use train::functional_uncertainty::functional_uncertainty;

use crate::support::allocation::bytes_held;
use crate::support::{
    assert_close, devices, exact, floats, mixture, named_gradients, questions, tiny_adapted,
    tiny_adapted_in,
};

/// Logits of a training pass with dropout, and the gradients of the parameters.
fn pass(adapter: &AdapterConfig, device: &Device) -> (Vec<f32>, BTreeMap<String, Vec<f32>>) {
    pass_of(&tiny_adapted(adapter, device), device)
}

/// The same of a model.
fn pass_of(llama: &Llama, device: &Device) -> (Vec<f32>, BTreeMap<String, Vec<f32>>) {
    let llama = llama.clone().train();
    let batch = exact().batch(questions(5), &device.clone().autodiff());
    let output = llama.forward(&forward::input(&batch, DropoutSeed::new(5)));
    let logits = floats(output.logits.clone().without_autodiff());
    let mut loss = output.logits.square().mean();
    if !output.routing.is_empty() {
        // Of the prompts' tokens alone: what padding says means nothing.
        loss = loss + functional_uncertainty(&output.routing, &batch.means.prompt).sum();
    }
    let gradients = GradientsParams::from_grads(loss.backward(), &llama);
    (logits, named_gradients(&llama, &gradients))
}

#[test]
fn every_form_says_the_same_with_dropout_in_every_placement() {
    let lora = LoraConfig {
        dropout: 0.3,
        ..mixture().lora
    };
    let mut adapters = vec![AdapterConfig::Lora(lora.clone())];
    for placement in [Placement::All, Placement::Ffn] {
        for mixture_weights in [
            MixtureWeights::Renormalized,
            MixtureWeights::Raw,
            MixtureWeights::RawDelta,
        ] {
            adapters.push(AdapterConfig::MixLora(MixLoraConfig {
                lora: lora.clone(),
                placement,
                mixture_weights,
                ..mixture()
            }));
        }
    }
    for adapter in adapters {
        // The masks are the same on every device: all are compared with the processor's kernels.
        let (logits, gradients) = pass(&adapter, &Device::flex());
        for (name, device, tolerance) in devices() {
            for form in [Form::Lean, Form::Composed] {
                let what = format!("{form:?} on {name}, {adapter:?}");
                let (found, found_gradients) = in_form(form, || pass(&adapter, &device));
                assert_close(&what, &found, &logits, tolerance);
                assert!(gradients.keys().eq(found_gradients.keys()), "{what}");
                for (parameter, gradient) in &gradients {
                    let what = format!("{what}: {parameter}");
                    let found = &found_gradients[parameter];
                    assert_close(&what, found, gradient, tolerance.max(1e-3));
                }
            }
        }
    }
}

/// Beside bf16 weights the lean form keeps activations in bf16: what that moves is no more than
/// what the products' own rounding moves.
#[test]
fn beside_bf16_weights_the_lean_form_says_the_same_within_their_rounding() {
    let lora = LoraConfig {
        dropout: 0.3,
        ..mixture().lora
    };
    let adapters = [
        AdapterConfig::Lora(lora.clone()),
        AdapterConfig::Lora(LoraConfig {
            use_dora: true,
            ..lora.clone()
        }),
        AdapterConfig::MixLora(MixLoraConfig {
            lora: lora.clone(),
            ..mixture()
        }),
        AdapterConfig::MixLora(MixLoraConfig {
            lora: lora.clone(),
            mixture_weights: MixtureWeights::Raw,
            ..mixture()
        }),
        AdapterConfig::MixLora(MixLoraConfig {
            lora,
            placement: Placement::Ffn,
            ..mixture()
        }),
    ];
    for adapter in adapters {
        for (name, device, _) in devices() {
            if !device.supports_dtype(burn::tensor::DType::BF16) {
                continue;
            }
            let of = |form, weights| {
                in_form(form, || {
                    pass_of(&tiny_adapted_in(weights, &adapter, &device), &device)
                })
            };
            let (exact, exactly) = of(Form::Composed, FloatDType::F32);
            let (composed, gradients) = of(Form::Composed, FloatDType::BF16);
            let (lean, found) = of(Form::Lean, FloatDType::BF16);
            let far = |a: &[f32], b: &[f32]| -> f64 {
                let squares =
                    |of: &mut dyn Iterator<Item = f32>| of.map(|v| f64::from(v * v)).sum();
                let off: f64 = squares(&mut a.iter().zip(b).map(|(a, b)| a - b));
                let size: f64 = squares(&mut b.iter().copied());
                (off / size).sqrt()
            };
            let what = format!("{name}, {adapter:?}");
            let rounding = far(&composed, &exact);
            assert!(rounding > 1e-4, "{what}: bf16 rounds nothing?");
            let moved = far(&lean, &composed);
            assert!(
                moved <= 1.5 * rounding,
                "{what}: {moved} where rounding moves {rounding}"
            );
            // Of the whole gradient: single ones are what is left of sums that nearly cancel.
            let whole = |of: &BTreeMap<String, Vec<f32>>| of.values().flatten().copied().collect();
            let [exactly, gradients, found]: [Vec<f32>; 3] =
                [&exactly, &gradients, &found].map(whole);
            let rounding = far(&gradients, &exactly);
            let moved = far(&found, &gradients);
            assert!(
                moved <= 2.0 * rounding,
                "{what}: gradients: {moved} where rounding moves {rounding}"
            );
        }
    }
}

/// Bytes that the graph of a training pass holds, for each token.
fn kept(layers: usize, adapter: &AdapterConfig, weights: FloatDType, form: Form) -> f64 {
    let mut config = tiny::config(270);
    config.num_hidden_layers = layers;
    config.sliding_window = vec![None; layers];
    config.hidden_size = 256;
    config.intermediate_size = 688;
    config.num_attention_heads = 4;
    config.num_key_value_heads = 4;
    config.head_dim = 64;
    config.max_position_embeddings = 600;
    let device = Device::flex();
    let mut drawn = RandomWeights::new(config.clone(), 1);
    let base = Llama::load(&config, &mut drawn, 600, weights, &device).unwrap();
    let llama = base.attach(adapter, 1).unwrap().train();
    let tokens = (0..560).map(|i| i % 250).collect();
    let row = EncodedQuestion::lettered("long", tokens, &[100, 103], 0);
    let batch = exact().batch(vec![row], &device.autodiff());
    let input = forward::input(&batch, DropoutSeed::new(5));
    let (_output, bytes) = bytes_held(|| in_form(form, || llama.forward(&input)));
    bytes as f64 / 560.0
}

/// LLaMA-2-7B has 32 layers of width 4096, whose feed-forward width has the ratio of the model
/// here. What a layer keeps is in proportion to its width.
#[test]
fn a_token_of_a_7b_model_keeps_7_mb_and_4_beside_bf16_weights_composed_three_times_that() {
    let mix = AdapterConfig::MixLora(MixLoraConfig {
        lora: LoraConfig {
            // 1 is to 256 what 16 is to 4096.
            rank: 1,
            dropout: 0.05,
            ..mixture().lora
        },
        num_experts: 8,
        ..mixture()
    });
    let of_a_7b = |weights, form| {
        // The first products of a thread make workspaces, as large as the processor's caches ask.
        kept(4, &mix, weights, form);
        let layer = (kept(4, &mix, weights, form) - kept(2, &mix, weights, form)) / 2.0;
        layer / 256.0 * 4096.0 * 32.0 / 1e6
    };
    let (lean, composed) = (
        of_a_7b(FloatDType::F32, Form::Lean),
        of_a_7b(FloatDType::F32, Form::Composed),
    );
    let half = of_a_7b(FloatDType::BF16, Form::Lean);
    println!("MB a token: lean {lean:.2}, beside bf16 {half:.2}, composed {composed:.2}");
    assert!(lean <= 6.5, "{lean:.2} MB a token");
    assert!(half <= 4.0, "{half:.2} MB a token beside bf16 weights");
    assert!(composed > 2.5 * lean, "{composed:.2} against {lean:.2}");
}
