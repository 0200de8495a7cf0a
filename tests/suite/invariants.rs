//! What must hold whatever the weights: method.md's list, padding, batch composition.

use std::collections::BTreeMap;

use burn::data::dataloader::batcher::Batcher;
use burn::module::Module;
use burn::optim::GradientsParams;
use burn::prelude::*;
use data::encoded::EncodedQuestion;
use data::padding::Padding;
use data::{Batch, BatchOptions, QuestionBatcher};
use model::{
    AdapterConfig, DropoutSeed, Llama, LlamaInput, LoraConfig, MixLoraConfig, MixtureWeights,
    Placement, Probe,
};
use train::RunConfig;
use train::forward;
use train::functional_uncertainty::functional_uncertainty;
use train::loss::load_balancing::{LoadBalancing, load_balancing};
use train::prediction::Prediction;
use train::registry;

use crate::support::{
    assert_close, devices, floats, mixture, named_gradients, questions, tiny_adapted,
    tiny_adapted_layers, tiny_base,
};

fn batch(rows: &[EncodedQuestion], device: &Device) -> Batch {
    QuestionBatcher::default().batch(rows.to_vec(), device)
}

/// The same questions with other padding: on the left, or on a grid, or both.
fn padded_otherwise(rows: &[EncodedQuestion], device: &Device) -> [Batch; 3] {
    [
        (true, Padding::Exact),
        (false, Padding::Grid),
        (true, Padding::Grid),
    ]
    .map(|(pad_left, padding)| {
        let options = BatchOptions {
            pad_left,
            padding,
            ..Default::default()
        };
        QuestionBatcher { options }.batch(rows.to_vec(), device)
    })
}

fn config(method: &str, adapter: &MixLoraConfig) -> RunConfig {
    let mut config = RunConfig::default();
    config.method.name = method.into();
    config.adapter.rank = adapter.lora.rank;
    config.adapter.alpha = adapter.lora.alpha;
    config.adapter.dropout = adapter.lora.dropout;
    config.adapter.num_experts = adapter.num_experts;
    config.adapter.top_k = adapter.top_k;
    config.adapter.placement = adapter.placement;
    config.adapter.mixture_weights = adapter.mixture_weights;
    config
}

/// Logits at the answers, FLU, and both forms of the load-balancing loss.
fn numbers(llama: &Llama, batch: &Batch) -> (Vec<f32>, Vec<f32>, [f32; 2]) {
    let output = llama.forward(&forward::input(batch, DropoutSeed::OFF));
    let flu = functional_uncertainty(&output.routing, &batch.means.prompt);
    let balance = [LoadBalancing::Argmax, LoadBalancing::TopK].map(|form| {
        load_balancing(&output.routing, &batch.means.tokens, form).into_scalar::<f32>()
    });
    (floats(output.logits), floats(flu), balance)
}

#[test]
fn padding_and_batch_composition_change_nothing() {
    for (name, device, tolerance) in devices() {
        for placement in [Placement::All, Placement::Ffn] {
            let adapter = AdapterConfig::MixLora(MixLoraConfig {
                placement,
                ..mixture()
            });
            let llama = tiny_adapted(&adapter, &device);
            let rows = questions(5);
            let (logits, flu, balance) = numbers(&llama, &batch(&rows, &device));
            let what = format!("{placement:?} on {name}");
            for other in padded_otherwise(&rows, &device) {
                let (other_logits, other_flu, other_balance) = numbers(&llama, &other);
                assert_close(&what, &other_logits, &logits, tolerance);
                assert_close(&what, &other_flu, &flu, tolerance);
                assert_close(&what, &other_balance, &balance, tolerance);
            }
            let width = llama.vocabulary();
            for (i, row) in rows.iter().enumerate() {
                let (alone, alone_flu, _) =
                    numbers(&llama, &batch(std::slice::from_ref(row), &device));
                assert_close(&what, &alone, &logits[i * width..][..width], tolerance);
                assert_close(&what, &alone_flu, &flu[i..=i], tolerance);
            }
        }
    }
}

#[test]
fn a_fresh_adapter_changes_nothing_but_raw_weights_scale_the_frozen_output() {
    for (name, device, tolerance) in devices() {
        let base = tiny_base(&device);
        let batch = batch(&questions(3), &device);
        let logits = |llama: &Llama| {
            floats(
                llama
                    .forward(&forward::input(&batch, DropoutSeed::OFF))
                    .logits,
            )
        };
        let plain = logits(&base);
        for placement in [Placement::All, Placement::Ffn] {
            for mixture_weights in [
                MixtureWeights::Renormalized,
                MixtureWeights::RawDelta,
                MixtureWeights::NormalizedDelta,
            ] {
                let mix = MixLoraConfig {
                    placement,
                    mixture_weights,
                    ..mixture()
                };
                let fresh = base.attach(&AdapterConfig::MixLora(mix), 1).unwrap();
                let what = format!("{placement:?} {mixture_weights:?} on {name}");
                assert_close(&what, &logits(&fresh), &plain, tolerance);
            }
            let mix = MixLoraConfig {
                placement,
                mixture_weights: MixtureWeights::Raw,
                ..mixture()
            };
            let raw = logits(&base.attach(&AdapterConfig::MixLora(mix), 1).unwrap());
            let moved = raw
                .iter()
                .zip(&plain)
                .map(|(a, b)| (a - b).abs())
                .fold(0.0, f32::max);
            assert!(
                moved > 1e-2,
                "{placement:?}: raw weights below 1 must shrink the frozen output"
            );
        }
    }
}

#[test]
fn flu_lies_between_k_over_e_and_1_and_reaches_both() {
    for (_, device, _) in devices() {
        let batch = batch(&questions(4), &device);
        let flu = |std: f64, experts: usize, top_k: usize| {
            let mix = MixLoraConfig {
                router_init_std: std,
                num_experts: experts,
                top_k,
                ..mixture()
            };
            let llama = tiny_base(&device)
                .attach(&AdapterConfig::MixLora(mix), 1)
                .unwrap();
            numbers(&llama, &batch).1
        };
        for value in flu(0.0, 8, 2) {
            assert!(
                (value - 0.25).abs() < 1e-5,
                "equal logits give k/E, got {value}"
            );
        }
        for value in flu(0.5, 8, 2) {
            assert!(value > 0.25 && value < 1.0, "{value}");
        }
        for value in flu(500.0, 8, 2) {
            assert!(value > 0.999, "saturated routers give 1, got {value}");
        }
        for value in flu(0.5, 4, 4) {
            assert!((value - 1.0).abs() < 1e-5, "k = E gives 1, got {value}");
        }
    }
}

/// Terms and gradients of a method on the adapted tiny model.
fn gradients(
    config: &RunConfig,
    device: &Device,
) -> (BTreeMap<&'static str, f32>, BTreeMap<String, Vec<f32>>) {
    let method = registry::build(config).unwrap();
    let llama = tiny_adapted(&method.adapter(), device).train();
    let tracked = device.clone().autodiff();
    let batch = batch(&questions(6), &tracked);
    let output = llama.forward(&forward::input(&batch, DropoutSeed::OFF));
    let objective = method.objective(&method.read(output, &batch), &batch);
    let values = objective
        .terms
        .iter()
        .map(|t| {
            (
                t.name,
                t.value.clone().without_autodiff().into_scalar::<f32>(),
            )
        })
        .collect();
    let gradients = GradientsParams::from_grads(objective.total().backward(), &llama);
    (values, named_gradients(&llama, &gradients))
}

#[test]
fn beta_0_is_mixlora_bit_for_bit() {
    let device = Device::flex();
    let mut zero = config("uq4ct", &mixture());
    zero.objective.calibration_weight = 0.0;
    let uq4ct = gradients(&zero, &device);
    let mixlora = gradients(&config("mixlora", &mixture()), &device);
    assert_eq!(uq4ct, mixlora);
    let trained = gradients(&config("uq4ct", &mixture()), &device);
    assert_ne!(trained.1, mixlora.1);
}

#[test]
fn one_expert_is_plain_lora() {
    for (name, device, tolerance) in devices() {
        let one = MixLoraConfig {
            num_experts: 1,
            top_k: 1,
            ..mixture()
        };
        let batch = batch(&questions(4), &device);
        // One layer: its projections are drawn before its routers, so both adapters draw the same
        // A.
        let logits = |adapter: AdapterConfig| {
            let llama = tiny_adapted_layers(1, &adapter, &device);
            floats(
                llama
                    .forward(&forward::input(&batch, DropoutSeed::OFF))
                    .logits,
            )
        };
        let lora = logits(AdapterConfig::Lora(one.lora.clone()));
        assert_close(
            &name,
            &logits(AdapterConfig::MixLora(one)),
            &lora,
            tolerance,
        );
    }
}

#[test]
fn a_probed_lora_with_dropout_says_what_the_fused_one_says() {
    // A probe records what only the composed form has: the masks must be the same.
    let device = Device::flex();
    let lora = LoraConfig {
        dropout: 0.3,
        ..mixture().lora
    };
    let llama = tiny_adapted(&AdapterConfig::Lora(lora), &device.clone().autodiff());
    let batch = batch(&questions(4), &device.clone().autodiff());
    let logits = |seed: DropoutSeed, probe: Option<Probe>| {
        let input = LlamaInput {
            probe,
            ..forward::input(&batch, seed)
        };
        floats(llama.forward(&input).logits.without_autodiff())
    };
    let fused = logits(DropoutSeed::new(5), None);
    let composed = logits(DropoutSeed::new(5), Some(Probe::from_layer(0)));
    assert_close("logits", &fused, &composed, 1e-5);
    assert_ne!(fused, logits(DropoutSeed::OFF, None));
}

#[test]
fn k_equals_e_has_flu_1_and_the_calibration_loss_is_the_error_rate() {
    let all = MixLoraConfig {
        top_k: 4,
        ..mixture()
    };
    let (config, device) = (config("uq4ct", &all), Device::flex());
    let (values, _) = gradients(&config, &device);
    let method = registry::build(&config).unwrap();
    let batch = batch(&questions(6), &device);
    let output =
        tiny_adapted(&method.adapter(), &device).forward(&forward::input(&batch, DropoutSeed::OFF));
    let prediction = Prediction::of(&method.read(output, &batch), &batch);
    let rows = prediction.rows(&batch).unwrap();
    for row in &rows {
        assert!((row.flu.unwrap() - 1.0).abs() < 1e-5, "{:?}", row.flu);
    }
    let wrong = rows.iter().filter(|row| !row.correct()).count();
    // With every answer right, or every one wrong, a loss that ignores the answers would pass, too.
    assert!(wrong > 0 && wrong < rows.len(), "{wrong} of {}", rows.len());
    let (loss, rate) = (values["calibration_loss"], wrong as f32 / rows.len() as f32);
    assert!((loss - rate).abs() < 1e-5, "{loss} is not {rate}");
}

#[test]
fn top_1_with_renormalised_weights_gives_the_router_no_gradient_from_cross_entropy() {
    let one = MixLoraConfig {
        top_k: 1,
        ..mixture()
    };
    let router = |mix: &MixLoraConfig, method: &str| {
        let mut config = config(method, mix);
        config.objective.load_balancing_weight = 0.0;
        let (_, found) = gradients(&config, &Device::flex());
        found
            .get("layers.0.mlp_router.weight")
            .map_or(0.0, |g| g.iter().map(|v| v.abs()).fold(0.0, f32::max))
    };
    assert!(router(&one, "mixlora") < 1e-7);
    assert!(
        router(&one, "uq4ct") > 1e-6,
        "the calibration loss reaches the router"
    );
    let raw = MixLoraConfig {
        mixture_weights: MixtureWeights::Raw,
        ..one
    };
    assert!(
        router(&raw, "mixlora") > 1e-6,
        "raw weights let cross-entropy through"
    );
}

#[test]
fn the_routers_gradient_agrees_with_finite_differences() {
    finite_differences("calibration_loss", MixtureWeights::Renormalized);
    // The running mean is a constant: what is left is the path through each token's own mass.
    finite_differences("cross_entropy", MixtureWeights::NormalizedDelta);
}

fn finite_differences(term: &str, mixture_weights: MixtureWeights) {
    let device = Device::flex();
    let rows = questions(6);
    let mix = MixLoraConfig {
        mixture_weights,
        ..mixture()
    };
    let method = registry::build(&config("uq4ct", &mix)).unwrap();
    let adapter = method.adapter();
    let calibration = |llama: &Llama, batch: &Batch| {
        let output = llama.forward(&forward::input(batch, DropoutSeed::OFF));
        let objective = method.objective(&method.read(output, batch), batch);
        objective
            .terms
            .into_iter()
            .find(|t| t.name == term)
            .unwrap()
            .value
    };
    let llama = tiny_adapted(&adapter, &device).train();
    let tracked = device.clone().autodiff();
    let loss = calibration(&llama, &batch(&rows, &tracked));
    let found = named_gradients(
        &llama,
        &GradientsParams::from_grads(loss.backward(), &llama),
    );
    let gradient = &found["layers.1.mlp_router.weight"];
    let plain = tiny_adapted(&adapter, &device);
    let moved = |index: usize, step: f32| {
        let llama = nudge(plain.clone(), "layers.1.mlp_router.weight", index, step);
        f64::from(calibration(&llama, &batch(&rows, &device)).into_scalar::<f32>())
    };
    for index in [0, 7, 23, 41] {
        // Small enough that no token changes its experts, where the loss has a kink.
        let h = 2e-3;
        let numeric = (moved(index, h) - moved(index, -h)) / (2.0 * f64::from(h));
        let analytic = f64::from(gradient[index]);
        assert!(
            (numeric - analytic).abs() < 4e-2 * analytic.abs().max(2e-3),
            "{term} {index}: {numeric:e} {analytic:e}"
        );
    }
}

/// Adds `step` to one element of one parameter.
fn nudge(llama: Llama, name: &str, index: usize, step: f32) -> Llama {
    use burn::module::{ModuleMapper, Param};
    struct Nudge<'a>(Vec<String>, &'a str, usize, f32);
    impl ModuleMapper for Nudge<'_> {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.0.push(name.into());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.0.pop();
        }
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            if self.0.join(".") != self.1 {
                return param;
            }
            let (index, step) = (self.2, self.3);
            param.map(|old| {
                let shape = old.shape();
                let device = old.device();
                let mut values = floats(old);
                values[index] += step;
                Tensor::from_data(TensorData::new(values, shape), &device)
            })
        }
    }
    llama.map(&mut Nudge(vec![], name, index, step))
}

#[test]
fn the_adapter_counts_its_own_parameters() {
    let shape = model::load::tiny::config(270);
    for placement in [Placement::All, Placement::Ffn] {
        let adapter = AdapterConfig::MixLora(MixLoraConfig {
            placement,
            ..mixture()
        });
        let llama = tiny_base(&Device::flex()).attach(&adapter, 1).unwrap();
        assert_eq!(
            llama.trainable_parameters(),
            adapter.parameters(&shape),
            "{placement:?}"
        );
    }
    let lora = AdapterConfig::Lora(mixture().lora);
    let llama = tiny_base(&Device::flex()).attach(&lora, 1).unwrap();
    assert_eq!(llama.trainable_parameters(), lora.parameters(&shape));
    assert_eq!(tiny_base(&Device::flex()).trainable_parameters(), 0);
}

#[test]
fn adapter_sizes_of_llama_2_7b_are_the_papers() {
    let text = r#"{"model_type":"llama","vocab_size":32000,"hidden_size":4096,"intermediate_size":11008,
        "num_hidden_layers":32,"num_attention_heads":32}"#;
    let llama = model::ModelConfig::from_json(text).unwrap();
    let of = |preset: &str| {
        let mut layers = train::config::ConfigLayers::default();
        layers.method(preset).unwrap();
        let config = layers.resolve().unwrap();
        registry::build(&config)
            .unwrap()
            .adapter()
            .parameters(&llama)
    };
    assert_eq!(of("lora"), 199_884_800);
    assert_eq!(of("uq4ct"), 321_912_832);
    assert_eq!(of("mixlora-repo"), 203_423_744);
}
