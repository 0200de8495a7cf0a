//! LoRA's variants against peft; the fixtures are made by `tests/fixtures/make_adapters.py`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::data::dataloader::batcher::Batcher;
use burn::module::{Module, ModuleMapper, Param};
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::prelude::*;
use burn::tensor::FloatDType;
use data::Batch;
use model::exchange::{self, Adapter, Tensors, merged, own, peft};
use model::{AdapterConfig, DropoutSeed, Llama, LoraConfig, ModelConfig};
use train::RunConfig;
use train::config::{ConfigLayers, RateSchedule};
use train::forward::{self, Reading};
use train::functional_uncertainty::FluTokens;
use train::method::{self, Training};
use train::optimizer::{OnePassAdamW, learning_rate};

use crate::families::load as load_family;
use crate::parity::{all_logits, load as load_llama, questions, real_rows};
use crate::support::{assert_close, devices, exact, fixture, floats, named_gradients};
use crate::support::{tensors, tensors as tensors_of};

/// Name and base model of every fixture.
const CASES: [(&str, &str); 9] = [
    ("rslora", "llama"),
    ("dora", "qwen2_bias"),
    ("dora_one_layer", "llama"),
    ("patterns", "llama"),
    ("pissa", "llama"),
    ("pissa_converted", "llama"),
    ("phi3", "phi3"),
    ("phi3_dora", "phi3"),
    ("gemma3_vision", "gemma3_vision"),
];

/// The base model of a fixture.
fn base(name: &str, device: &Device) -> Llama {
    match files(name).starts_with(fixture("families")) {
        true => load_family(name, device),
        false => load_llama(name, device),
    }
}

/// The directory of the base model of a fixture.
fn files(name: &str) -> PathBuf {
    let folder = fixture("families").join(name);
    match folder.is_dir() {
        true => folder,
        false => fixture("parity").join(name),
    }
}

fn read(case: &str) -> Adapter {
    exchange::read(&fixture("adapters").join(case)).unwrap_or_else(|e| panic!("{case}: {e}"))
}

fn lora(adapter: &Adapter) -> &LoraConfig {
    match &adapter.config {
        AdapterConfig::Lora(lora) => lora,
        other => panic!("{other:?}"),
    }
}

/// The fixture's adapter on its base model.
fn adapted(base: &Llama, adapter: &Adapter) -> Llama {
    let fresh = base.attach(&adapter.config, 0).unwrap();
    fresh.with_adapter_tensors(&adapter.tensors).unwrap()
}

fn loss(llama: &Llama, batch: &Batch) -> Tensor<1> {
    let output = llama.forward(&forward::input(batch, DropoutSeed::OFF));
    let reading = Reading::of(output, batch, FluTokens::default());
    method::base::Base.objective(&reading, batch).total()
}

fn logits(llama: &Llama, device: &Device) -> Vec<f32> {
    let batch = exact().batch(questions(), device);
    all_logits(llama, &forward::input(&batch, DropoutSeed::OFF))
}

#[test]
fn logits_loss_and_gradients_of_every_variant_equal_pefts() {
    for (name, device, tolerance) in devices() {
        for (case, on) in CASES {
            let what = format!("{case} on {name}");
            let expected = tensors(&fixture("adapters").join(case).join("expected.safetensors"));
            let adapter = read(case);
            let llama = adapted(&base(on, &device), &adapter);
            // PiSSA's factors come from two decompositions in f32.
            let tolerance = tolerance.max(1e-4);
            let wanted = real_rows(&expected["logits"]);
            assert_close(&what, &logits(&llama, &device), &wanted, tolerance);
            let llama = llama.train();
            let device = device.clone().autodiff();
            let batch = exact().batch(questions(), &device);
            let loss = loss(&llama, &batch);
            let found = floats(loss.clone().without_autodiff());
            assert_close(&what, &found, &expected["loss"].1, tolerance);
            let gradients = GradientsParams::from_grads(loss.backward(), &llama);
            let found = named_gradients(&llama, &gradients);
            let mut compared = 0;
            for (name, (_, gradient)) in &expected {
                // What peft has as one module is several here, of one A each; and twice the rank
                // has gradients of its own.
                let Some(name) = name.strip_prefix("gradient.") else {
                    continue;
                };
                if let Some(own) = found.get(name).filter(|_| case != "pissa_converted") {
                    let what = format!("{what}: gradient of {name}");
                    assert_close(&what, own, gradient, tolerance.max(1e-3));
                    compared += 1;
                }
            }
            let apart = on == "phi3" || case == "pissa_converted";
            assert!(apart || compared == found.len(), "{what}: {compared}");
        }
    }
}

#[test]
fn what_peft_says_of_an_adapter_is_understood() {
    let patterns = read("patterns");
    let config = lora(&patterns);
    let shape = |layer, target| config.on(layer, target).map(|s| (s.rank, s.scaling));
    use model::TargetModule::{DownProj, GateProj, KProj, QProj, UpProj, VProj};
    assert_eq!(shape(0, QProj), Some((5, 9.0 / 5.0)));
    assert_eq!(shape(1, QProj), Some((3, 3.0)));
    assert_eq!(shape(0, VProj), Some((3, 3.0)));
    assert_eq!(shape(1, DownProj), Some((2, 3.0)));
    assert_eq!(shape(0, UpProj), Some((3, 2.0)));
    assert_eq!(shape(1, UpProj), Some((3, 2.0 / 3.0)));
    assert_eq!([shape(0, GateProj), shape(0, KProj)], [None, None]);
    let one = read("dora_one_layer");
    let config = lora(&one);
    assert!(config.use_dora && config.use_rslora);
    assert_eq!(config.on(0, QProj), None);
    assert_eq!(config.on(1, QProj).unwrap().scaling, 6.0 / 3f64.sqrt());
    assert_eq!(lora(&read("pissa_converted")).rank, 6);
    assert!(lora(&read("pissa")).init_lora_weights.is_pissa());
}

#[test]
fn what_is_exported_is_read_again_as_the_same() {
    let device = Device::flex();
    for (case, on) in CASES {
        let adapter = read(case);
        let base_model = base(on, &device);
        let llama = adapted(&base_model, &adapter);
        let expected = logits(&llama, &device);
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let text = std::fs::read_to_string(files(on).join("config.json")).unwrap();
        let shape = ModelConfig::from_json(&text).unwrap();
        let tensors = llama.adapter_tensors();
        peft::write(folder, lora(&adapter), &tensors, "tiny", &shape).unwrap();
        let again = exchange::read(folder).unwrap();
        let found = logits(&adapted(&base_model, &again), &device);
        assert_close(case, &found, &expected, 1e-5);
        // As it was read, but for PiSSA, which becomes plain.
        if !lora(&adapter).init_lora_weights.is_pissa() {
            assert_eq!(again.tensors.len(), adapter.tensors.len(), "{case}");
        }
        own::write(folder, &adapter.config, &tensors, "tiny").unwrap();
        let again = exchange::read(folder).unwrap();
        assert_eq!(again.config, adapter.config, "{case}");
        let blank = base_model.attach_blank(&again.config).unwrap();
        let blank = blank.with_adapter_tensors(&again.tensors).unwrap();
        assert_eq!(logits(&blank, &device), expected, "{case}");
    }
}

#[test]
fn a_merged_model_computes_what_base_and_variant_did() {
    let device = Device::flex();
    for (case, on) in CASES {
        let adapter = read(case);
        let llama = adapted(&base(on, &device), &adapter);
        let expected = logits(&llama, &device);
        let from = files(on);
        let text = std::fs::read_to_string(from.join("config.json")).unwrap();
        let shape = ModelConfig::from_json(&text).unwrap();
        let mut weights = model::load::weights(&from, &shape).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let (lora, tensors) = (lora(&adapter), llama.adapter_tensors());
        merged::write(folder, &shape, &mut *weights, lora, &tensors, false).unwrap();
        // Under the names that the model's own files have, a language part as a model of its own.
        let names = |folder: &Path| -> Vec<String> {
            let all = tensors_of(&folder.join("model.safetensors"));
            all.into_keys().collect()
        };
        let known = names(&from).into_iter();
        let known: Vec<String> = match shape.variant.language_part {
            true => known
                .filter_map(|name| Some(name.strip_prefix("language_model.")?.to_owned()))
                .collect(),
            false => known.collect(),
        };
        assert_eq!(names(folder), known, "{case}");
        let shape = ModelConfig::from_json(&shape.to_json().to_string()).unwrap();
        let mut again = model::load::weights(folder, &shape).unwrap();
        let again = Llama::load(&shape, &mut *again, 64, FloatDType::F32, &device).unwrap();
        assert_close(case, &logits(&again, &device), &expected, 1e-5);
    }
}

/// Every parameter moved along a wave of its own.
struct Along(f32);

impl ModuleMapper for Along {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if !param.is_require_grad() {
            return param;
        }
        param.map(|old| {
            let shape = old.shape();
            let wave = (0..).map(|i| self.0 * (i as f32 * 1.3 + 0.4).sin());
            let values = floats(old.clone()).into_iter().zip(wave);
            let moved: Vec<f32> = values.map(|(value, step)| value + step).collect();
            Tensor::from_data(TensorData::new(moved, shape), &old.device())
        })
    }
}

/// The norm of each row of every adapted matrix, by module.
fn norms(llama: &Llama, config: &LoraConfig, weights: &BTreeMap<String, Vec<f32>>) -> Tensors {
    let tensors = llama.adapter_tensors();
    let values = |name: &str| -> Vec<f32> { tensors[name].iter::<f32>().collect() };
    let mut found = Tensors::new();
    for layer in 0..2 {
        for target in model::TargetModule::ALL {
            let Some(shape) = config.on(layer, target) else {
                continue;
            };
            let module = format!("layers.{layer}.{}", target.path());
            let weight = &weights[&format!("model.{module}.weight")];
            let (a, b) = (
                values(&format!("{module}.lora_a")),
                values(&format!("{module}.lora_b")),
            );
            let (r, d_in) = (shape.rank, a.len() / shape.rank);
            let d_out = b.len() / r;
            let norm = |o: usize| {
                let squares = (0..d_in).map(|i| {
                    let update = (0..r).map(|k| f64::from(a[i * r + k] * b[k * d_out + o]));
                    let sum = f64::from(weight[o * d_in + i]) + shape.scaling * update.sum::<f64>();
                    sum * sum
                });
                squares.sum::<f64>().sqrt() as f32
            };
            let norms: Vec<f32> = (0..d_out).map(norm).collect();
            found.insert(module, TensorData::new(norms, [d_out]));
        }
    }
    found
}

/// With DoRA, no gradient passes through the norms: the function whose slope is meant has them as
/// they were, which magnitudes that follow the new norms bring about.
#[test]
fn gradients_of_every_variant_agree_with_finite_differences() {
    let device = Device::flex().autodiff();
    for (case, on) in CASES.into_iter().filter(|(_, on)| *on != "phi3") {
        let adapter = read(case);
        let config = lora(&adapter);
        let llama = adapted(&base(on, &device), &adapter).train();
        let batch = exact().batch(questions(), &device);
        let gradients = loss(&llama, &batch).backward();
        let gradients = GradientsParams::from_grads(gradients, &llama);
        let slope: f64 = named_gradients(&llama, &gradients)
            .values()
            .flat_map(|gradient| gradient.iter().enumerate())
            .map(|(i, g)| f64::from(*g) * f64::from((i as f32 * 1.3 + 0.4).sin()))
            .sum();
        let file = files(on).join("model.safetensors");
        let weights = tensors(&file).into_iter();
        // Of a larger model, the language part under names of its own.
        let own = |name: String| name.replace("language_model.model.", "model.");
        let weights = weights.map(|(name, (_, values))| (own(name), values));
        let weights = weights.collect();
        let before = norms(&llama, config, &weights);
        let at = |step: f32| {
            let moved = llama.clone().map(&mut Along(step));
            let mut tensors = moved.adapter_tensors();
            for (module, after) in norms(&moved, config, &weights) {
                if let Some(magnitude) = tensors.get_mut(&format!("{module}.magnitude")) {
                    let all = magnitude.iter::<f32>().zip(after.iter::<f32>());
                    let all = all.zip(before[&module].iter::<f32>());
                    let fixed: Vec<f32> = all.map(|((m, after), b)| m * after / b).collect();
                    *magnitude = TensorData::new(fixed, magnitude.shape().clone());
                }
            }
            let moved = moved.with_adapter_tensors(&tensors).unwrap();
            f64::from(floats(loss(&moved, &batch))[0])
        };
        let step = 5e-4f32;
        let found = (at(step) - at(-step)) / (2.0 * f64::from(step));
        assert!(
            (found - slope).abs() < 0.02 * slope.abs().max(0.05),
            "{case}: {slope} by the graph, {found} by differences"
        );
    }
}

#[test]
fn a_fresh_dora_or_pissa_changes_nothing_with_and_without_dropout() {
    let device = Device::flex();
    let plain = base("qwen2_bias", &device);
    let expected = logits(&plain, &device);
    let batch = exact().batch(questions(), &device);
    for (use_dora, start) in [
        (true, "kaiming"),
        (false, "pissa"),
        (true, "pissa"),
        (false, "pissa_niter_4"),
    ] {
        let config = AdapterConfig::Lora(LoraConfig {
            rank: 3,
            dropout: 0.3,
            use_dora,
            init_lora_weights: start.to_owned().try_into().unwrap(),
            ..LoraConfig::default()
        });
        let fresh = plain.attach(&config, 5).unwrap();
        let what = format!("dora {use_dora}, {start}");
        assert_close(&what, &logits(&fresh, &device), &expected, 1e-4);
        let dropped = all_logits(&fresh, &forward::input(&batch, DropoutSeed::new(3)));
        let same = dropped.iter().zip(&expected);
        let apart = same.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        // A DoRA whose B is zero and whose magnitudes are the norms passes dropped inputs through
        // nothing; what PiSSA took out of the frozen matrix is missed where inputs are dropped.
        assert_eq!(apart > 1e-3, start != "kaiming", "{what}: {apart}");
        assert_eq!(fresh.trainable_parameters(), {
            let text = std::fs::read_to_string(fixture("parity/qwen2_bias/config.json"));
            config.parameters(&ModelConfig::from_json(&text.unwrap()).unwrap())
        });
    }
}

#[test]
fn a_rate_for_b_steps_as_pefts_lora_plus() {
    let device = Device::flex().autodiff();
    let adapter = read("dora");
    let mut llama = adapted(&base("qwen2_bias", &device), &adapter).train();
    let mut config = RunConfig::default();
    config.train.schedule = RateSchedule::Constant;
    config.train.learning_rate = 0.01;
    config.train.lora_plus_ratio = 4.0;
    let mut rates = learning_rate(&config.train, 3).unwrap();
    let mut optimizer: ModuleOptimizer = OnePassAdamW::new(0.05).into();
    let batch = exact().batch(questions(), &device);
    for _ in 0..3 {
        let gradients = loss(&llama, &batch).backward();
        let gradients = GradientsParams::from_grads(gradients, &llama);
        llama = optimizer.step(rates.step(), llama, gradients);
    }
    let found = llama.adapter_tensors();
    let expected = tensors(&fixture("adapters/dora/loraplus.safetensors"));
    assert_eq!(found.len(), expected.len());
    for (name, (_, values)) in expected {
        let found: Vec<f32> = found[&name].iter::<f32>().collect();
        assert_close(&name, &found, &values, 2e-3);
    }
}

/// The settings that a command line gives, or the message that refuses them.
fn resolved(sets: &[&str]) -> Result<RunConfig, String> {
    let mut layers = ConfigLayers::default();
    for set in sets {
        layers.set(set).map_err(|e| e.to_string())?;
    }
    layers.resolve().map_err(|e| e.to_string())
}

#[test]
fn variants_are_settings_that_go_through_a_file_and_have_names_of_their_own() {
    let set = [
        "method.name=lora",
        r#"adapter.target_modules="model\\.layers\\..*(q|v)_proj""#,
        r#"adapter.rank_pattern={"layers.0.self_attn.q_proj" = 5, v_proj = 2}"#,
        "adapter.alpha_pattern={v_proj = 9.0}",
        "adapter.use_rslora=true",
        "adapter.use_dora=true",
        "adapter.init_lora_weights=pissa_niter_16",
        "train.lora_plus_ratio=16",
    ];
    let config = resolved(&set).unwrap();
    let mut layers = ConfigLayers::default();
    layers.text(&config.to_toml(), "config.toml").unwrap();
    assert_eq!(layers.resolve().unwrap(), config);
    let kept = config.keeping(|key| key.starts_with("adapter.")).unwrap();
    assert_eq!(kept.adapter, config.adapter);
    let changes = config.changes();
    for key in [
        "rank_pattern",
        "alpha_pattern",
        "use_dora",
        "lora_plus_ratio",
    ] {
        assert!(changes.contains(key), "{changes}");
    }
    let plain = resolved(&["method.name=lora"]).unwrap();
    assert_eq!(plain.changes(), "method.name = \"lora\"\n");
    let all = resolved(&["method.name=lora", "adapter.target_modules=all-linear"]).unwrap();
    assert_eq!(all, plain);
    // Patterns as a whole replace those of a layer below.
    let mut layers = ConfigLayers::default();
    layers.set("adapter.rank_pattern={q_proj = 4}").unwrap();
    layers.set("adapter.rank_pattern={v_proj = 2}").unwrap();
    let patterns = layers.resolve().unwrap().adapter.rank_pattern;
    assert_eq!(patterns.get(0, model::TargetModule::QProj), None);
}

#[test]
fn every_method_takes_a_variant_or_says_why_not() {
    let names: Vec<&str> = train::registry::METHODS.iter().map(|m| m.name).collect();
    for name in names.into_iter().filter(|name| *name != "base") {
        let method = format!("method.name={name}");
        let mixture = ["mixlora", "uq4ct"].contains(&name);
        for (set, refused) in [
            ("adapter.use_rslora=true", false),
            ("adapter.rank_pattern={q_proj = 4}", false),
            (
                "adapter.use_dora=true",
                mixture || ["laplace", "tfb", "blob"].contains(&name),
            ),
            (
                "adapter.init_lora_weights=pissa",
                mixture || ["laplace", "blob"].contains(&name),
            ),
            (
                r#"adapter.target_modules=["layers.0.self_attn.q_proj"]"#,
                mixture,
            ),
        ] {
            let found = resolved(&[&method, "train.snapshots=2", set]);
            let key = set.split('=').next().unwrap();
            assert_eq!(found.is_err(), refused, "{name} {set}: {found:?}");
            if let Err(error) = found {
                assert!(error.contains(key), "{name} {set}: {error}");
            }
        }
    }
    let initial = [
        "method.laplace.prior_mean=initial",
        "adapter.init_lora_weights=pissa",
    ];
    resolved(&["method.name=laplace", initial[0], initial[1]]).unwrap();
}

#[test]
fn settings_that_fit_nothing_are_refused_with_what_to_do() {
    let plain = base("llama", &Device::flex());
    let attach = |set: &str| {
        let config = resolved(&["method.name=lora", "adapter.rank=3", set]).unwrap();
        let adapter = AdapterConfig::Lora(config.adapter.lora());
        plain.attach(&adapter, 0).unwrap_err().to_string()
    };
    let error = attach(r#"adapter.target_modules="layers.*q_proj""#);
    assert!(error.contains("fits no projection"), "{error}");
    let error = attach(r#"adapter.target_modules=["layers.7.self_attn.q_proj"]"#);
    assert!(error.contains("2 layers"), "{error}");
    let error = attach(r#"adapter.rank_pattern={q_proj = 4, "layers.1.*" = 2}"#);
    assert!(error.contains("model.layers.1.self_attn.q_proj"), "{error}");
    let one = resolved(&["adapter.target_modules=q_proj"]).unwrap();
    assert_eq!(
        one,
        resolved(&[r#"adapter.target_modules=["q_proj"]"#]).unwrap()
    );
    let error = resolved(&["adapter.init_lora_weights=olora"]).unwrap_err();
    assert!(error.contains("pissa_niter_16"), "{error}");
    let error = resolved(&["adapter.rank_pattern={q_proj = 0}"]).unwrap_err();
    assert!(error.contains("rank_pattern"), "{error}");
}
