//! Against transformers and an independent MixLoRA in PyTorch; the fixtures are made by
//! `tests/fixtures/make_parity.py`.

use burn::data::dataloader::batcher::Batcher;
use burn::module::Module;
use burn::optim::GradientsParams;
use burn::prelude::*;
use burn::tensor::FloatDType;
use burn::tensor::activation::log_softmax;
use data::encoded::EncodedQuestion;
use model::fused::{Form, in_form};
use model::load::safetensors::Safetensors;
use model::{
    AdapterConfig, DropoutSeed, KeyValueCache, Llama, LlamaInput, LoraConfig, MixLoraConfig,
    MixtureWeights, ModelConfig, Placement,
};
use train::RunConfig;
use train::forward::{self, Reading};
use train::functional_uncertainty::FluTokens;
use train::loss::load_balancing::{LoadBalancing, load_balancing};
use train::method::{self, Method, Training};
use train::registry;

use crate::support::{
    assert_close, devices, exact, fixture, floats, load_adapter, named_gradients, tensors,
};

const LENGTHS: [usize; 2] = [13, 7];
const LABELS: [u32; 4] = [5, 9, 11, 17];
const ANSWERS: [usize; 2] = [2, 0];

pub(crate) fn load(name: &str, device: &Device) -> Llama {
    let folder = fixture("parity").join(name);
    let text = std::fs::read_to_string(folder.join("config.json")).unwrap();
    let config = ModelConfig::from_json(&text).unwrap();
    let mut weights = Safetensors::open(&folder).unwrap();
    Llama::load(&config, &mut weights, 64, FloatDType::F32, device).unwrap()
}

/// The tokens of `make_parity.py`.
pub(crate) fn questions() -> Vec<EncodedQuestion> {
    let ids = tensors(&fixture("parity/tokens.safetensors"))
        .remove("tokens")
        .unwrap()
        .1;
    ids.chunks(LENGTHS[0])
        .zip(LENGTHS)
        .zip(ANSWERS)
        .enumerate()
        .map(|(row, ((ids, length), answer))| {
            let prompt = ids[..length].iter().map(|id| *id as u32).collect();
            EncodedQuestion::lettered(&row.to_string(), prompt, &LABELS, answer)
        })
        .collect()
}

/// Logits of every real token, rows one after another.
pub(crate) fn all_logits(llama: &Llama, input: &LlamaInput) -> Vec<f32> {
    let sequence = LENGTHS[0];
    let real: Vec<i32> = LENGTHS
        .iter()
        .enumerate()
        .flat_map(|(row, length)| (0..*length).map(move |t| (row * sequence + t) as i32))
        .collect();
    let n = real.len();
    let scored = Tensor::<1, Int>::from_data(TensorData::new(real, [n]), &input.tokens.device());
    floats(
        llama
            .forward(&LlamaInput {
                scored,
                ..input.clone()
            })
            .logits,
    )
}

/// The rows of real tokens of an expected `[2, sequence, width]`.
pub(crate) fn real_rows((shape, values): &(Vec<usize>, Vec<f32>)) -> Vec<f32> {
    let [_, sequence, width] = shape[..] else {
        panic!("{shape:?}")
    };
    let row = |r: usize| &values[r * sequence * width..][..LENGTHS[r] * width];
    [row(0), row(1)].concat()
}

#[test]
fn logits_and_loss_of_every_family_equal_transformers() {
    for (name, device, tolerance) in devices() {
        for family in [
            "llama",
            "llama3_rope",
            "llama_linear_rope",
            "mistral_window",
            "qwen2_bias",
        ] {
            let llama = load(family, &device);
            let batch = exact().batch(questions(), &device);
            let expected = tensors(&fixture("parity").join(family).join("expected.safetensors"));
            let input = forward::input(&batch, DropoutSeed::OFF);
            let what = format!("{family} on {name}");
            assert_close(
                &what,
                &all_logits(&llama, &input),
                &real_rows(&expected["logits"]),
                tolerance,
            );
            let output = llama.forward(&input);
            let reading = Reading::of(output, &batch, FluTokens::default());
            let loss = method::base::Base.objective(&reading, &batch).total();
            assert_close(&what, &floats(loss), &expected["loss"].1, tolerance);
        }
    }
}

#[test]
fn the_hidden_state_of_a_one_layer_model_equals_transformers() {
    let folder = fixture("parity/llama");
    let text = std::fs::read_to_string(folder.join("config.json")).unwrap();
    let mut config = ModelConfig::from_json(&text).unwrap();
    config.num_hidden_layers = 1;
    config.sliding_window.truncate(1);
    for (name, device, tolerance) in devices() {
        let mut weights = Safetensors::open(&folder).unwrap();
        let llama = Llama::load(&config, &mut weights, 64, FloatDType::F32, &device).unwrap();
        let batch = exact().batch(questions(), &device);
        let (hidden, _) = llama.hidden_states(&forward::input(&batch, DropoutSeed::OFF));
        let [_, d] = hidden.dims();
        let found = (vec![2, LENGTHS[0], d], floats(hidden));
        let expected = tensors(&folder.join("expected.safetensors"));
        let expected = real_rows(&expected["embedded_then_layer_0"]);
        assert_close(&name, &real_rows(&found), &expected, tolerance);
    }
}

pub(crate) fn lora() -> LoraConfig {
    LoraConfig {
        rank: 3,
        alpha: 6.0,
        ..LoraConfig::default()
    }
}

fn run_config(placement: Placement, weights: MixtureWeights) -> RunConfig {
    let mut config = RunConfig::default();
    config.adapter.rank = 3;
    config.adapter.alpha = 6.0;
    config.adapter.dropout = 0.0;
    config.adapter.num_experts = 5;
    config.adapter.placement = placement;
    config.adapter.mixture_weights = weights;
    config
}

/// Checks an adapter on every device, and there in every form of the operations.
fn check_adapter(case: &str, adapter: &AdapterConfig, method: &dyn Method) {
    check_adapter_in_one_form(case, adapter, method);
    for form in [Form::Lean, Form::Composed] {
        let case = || check_adapter_in_one_form(case, adapter, method);
        in_form(form, case);
    }
}

fn check_adapter_in_one_form(case: &str, adapter: &AdapterConfig, method: &dyn Method) {
    for (name, device, tolerance) in devices() {
        let folder = fixture("parity").join(format!("adapter_{case}"));
        let expected = tensors(&folder.join("expected.safetensors"));
        let fresh = load("llama", &device).attach(adapter, 0).unwrap();
        let llama = load_adapter(fresh, &folder.join("adapter.safetensors")).train();
        let device = device.autodiff();
        let batch = exact().batch(questions(), &device);
        let input = forward::input(&batch, DropoutSeed::OFF);
        let what = format!("{case} on {name}");
        assert_close(
            &what,
            &all_logits(&llama, &input),
            &real_rows(&expected["logits"]),
            tolerance,
        );
        let output = llama.forward(&input);
        let reading = method.read(output, &batch);
        let objective = method.objective(&reading, &batch);
        for term in &objective.terms {
            let found = floats(term.value.clone().without_autodiff());
            assert_close(
                &format!("{what}: {}", term.name),
                &found,
                &expected[term.name].1,
                tolerance,
            );
        }
        if !reading.routing.is_empty() {
            let pooled = load_balancing(&reading.routing, &batch.means.tokens, LoadBalancing::TopK);
            let found = floats(pooled.without_autodiff());
            assert_close(
                &what,
                &found,
                &expected["load_balancing_top_k"].1,
                tolerance,
            );
        }
        let total = objective.total();
        assert_close(
            &what,
            &floats(total.clone().without_autodiff()),
            &expected["total"].1,
            tolerance,
        );
        let gradients = GradientsParams::from_grads(total.backward(), &llama);
        let found = named_gradients(&llama, &gradients);
        let names = expected.keys().filter_map(|k| k.strip_prefix("gradient."));
        let mut compared = 0;
        for parameter in names {
            let gradient = &expected[&format!("gradient.{parameter}")].1;
            let what = format!("{what}: gradient of {parameter}");
            assert_close(&what, &found[parameter], gradient, tolerance.max(1e-3));
            compared += 1;
        }
        assert_eq!(compared, found.len());
    }
}

#[test]
fn losses_and_gradients_of_every_mixture_equal_pytorch() {
    for (place, placement) in [("all", Placement::All), ("ffn", Placement::Ffn)] {
        for (mode, weights) in [
            ("renormalized", MixtureWeights::Renormalized),
            ("raw", MixtureWeights::Raw),
            ("raw_delta", MixtureWeights::RawDelta),
        ] {
            let config = run_config(placement, weights);
            let adapter = AdapterConfig::MixLora(MixLoraConfig {
                lora: lora(),
                num_experts: 5,
                top_k: 2,
                placement,
                mixture_weights: weights,
                router_init_std: 0.02,
            });
            let method = registry::build(&config).unwrap();
            assert_eq!(method.adapter(), adapter);
            check_adapter(&format!("{place}_{mode}"), &adapter, &*method);
        }
    }
}

#[test]
fn loss_and_gradients_of_lora_equal_pytorch() {
    let mut config = run_config(Placement::All, MixtureWeights::Renormalized);
    config.method.name = "lora".into();
    let method = registry::build(&config).unwrap();
    check_adapter("lora", &AdapterConfig::Lora(lora()), &*method);
}

/// Greedy tokens and their log-probabilities, from a cache, rows of different lengths together; the
/// first row is forgotten after `forget` steps.
pub(crate) fn generate(
    llama: &Llama,
    steps: usize,
    forget: usize,
    device: &Device,
) -> Vec<(Vec<i64>, Vec<f32>)> {
    let rows = questions();
    let mut kept: Vec<usize> = vec![0, 1];
    let batch = exact().batch(rows.clone(), device);
    let mut cache = KeyValueCache::default();
    let prompt = forward::input(&batch, DropoutSeed::OFF);
    let mut logits = llama.forward_with_cache(&prompt, &mut cache).logits;
    let mut found = vec![(Vec::new(), Vec::new()); rows.len()];
    for step in 0.. {
        let (best, token) = log_softmax(logits.clone(), 1).max_dim_with_indices(1);
        let tokens: Vec<i64> = token.clone().into_data().try_into_vec_as().unwrap();
        for (row, (token, log)) in kept.iter().zip(tokens.into_iter().zip(floats(best))) {
            found[*row].0.push(token);
            found[*row].1.push(log);
        }
        if step + 1 == steps {
            break;
        }
        let mut token = token;
        if step == forget {
            kept = vec![1];
            let rows = Tensor::from_data([1], device);
            cache.select(&rows);
            token = token.select(0, rows);
        }
        let column = |value: &dyn Fn(usize) -> i64| {
            let values: Vec<i64> = kept.iter().map(|row| value(*row)).collect();
            Tensor::<2, Int>::from_data(TensorData::new(values, [kept.len(), 1]), device)
        };
        let next = LlamaInput {
            tokens: token,
            positions: column(&|row| (LENGTHS[row] + step) as i64),
            segments: column(&|_| 1),
            branches: column(&|_| 0),
            scored: Tensor::arange(0..kept.len() as i64, device),
            ..prompt.clone()
        };
        logits = llama.forward_with_cache(&next, &mut cache).logits;
        assert_eq!(cache.tokens(), LENGTHS[0] + step + 1);
    }
    found
}
