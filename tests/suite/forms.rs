//! The forms of the operations in whole models: they say the same, and the lean one keeps what it
//! promises.

use std::collections::BTreeMap;

use burn::data::dataloader::batcher::Batcher;
use burn::module::Module;
use burn::optim::GradientsParams;
use burn::prelude::*;
use burn::tensor::FloatDType;
use data::QuestionBatcher;
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
    assert_close, devices, floats, mixture, named_gradients, questions, tiny_adapted,
};

/// Logits of a training pass with dropout, and the gradients of the parameters.
fn pass(adapter: &AdapterConfig, device: &Device) -> (Vec<f32>, BTreeMap<String, Vec<f32>>) {
    let llama = tiny_adapted(adapter, device).train();
    let batch = QuestionBatcher::default().batch(questions(5), &device.clone().autodiff());
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

/// Bytes that the graph of a training pass holds, for each token.
fn kept(layers: usize, adapter: &AdapterConfig, form: Form) -> f64 {
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
    let mut weights = RandomWeights::new(config.clone(), 1);
    let base = Llama::load(&config, &mut weights, 600, FloatDType::F32, &device).unwrap();
    let llama = base.attach(adapter, 1).unwrap().train();
    let tokens = (0..560).map(|i| i % 250).collect();
    let row = EncodedQuestion::lettered("long", tokens, &[100, 103], 0);
    let batch = QuestionBatcher::default().batch(vec![row], &device.autodiff());
    let input = forward::input(&batch, DropoutSeed::new(5));
    let (_output, bytes) = bytes_held(|| in_form(form, || llama.forward(&input)));
    bytes as f64 / 560.0
}

/// LLaMA-2-7B has 32 layers of width 4096, whose feed-forward width has the ratio of the model
/// here. What a layer keeps is in proportion to its width.
#[test]
fn the_lean_form_keeps_7_mb_a_token_of_a_7b_model_and_the_composed_form_three_times_that() {
    let mix = AdapterConfig::MixLora(MixLoraConfig {
        lora: LoraConfig {
            // In the ratio of 16 to 4096 it would be a quarter.
            rank: 1,
            dropout: 0.05,
            ..mixture().lora
        },
        num_experts: 8,
        ..mixture()
    });
    let of_a_7b = |form| {
        let layer = (kept(4, &mix, form) - kept(2, &mix, form)) / 2.0;
        layer / 256.0 * 4096.0 * 32.0 / 1e6
    };
    let (lean, composed) = (of_a_7b(Form::Lean), of_a_7b(Form::Composed));
    println!("MB a token: lean {lean:.2}, composed {composed:.2}");
    assert!(lean <= 7.0, "{lean:.2} MB a token");
    assert!(composed > 2.5 * lean, "{composed:.2} against {lean:.2}");
}
