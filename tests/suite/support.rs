//! What the tests share: devices, fixtures, named parameters; and the programs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::prelude::*;
use burn::tensor::FloatDType;
use data::encoded::EncodedQuestion;
use data::padding::Padding;
use data::{BatchOptions, QuestionBatcher};
use model::load::tiny::{self, RandomWeights};
use model::{AdapterConfig, Llama, LoraConfig, MixLoraConfig};

pub(crate) mod allocation;
pub(crate) mod programs;
pub(crate) mod server;

/// Every device to test on, plain, with the largest relative difference that its arithmetic
/// excuses.
pub(crate) fn devices() -> Vec<(String, Device, f64)> {
    uq4ct::backend::available()
        .into_iter()
        .map(|found| {
            // Matrix products on GPUs may run on tensor cores (TF32).
            let tolerance = if found.name == "cpu" {
                1e-4
            } else if found.is_cpu() {
                2e-4
            } else {
                1e-2
            };
            (found.name, found.device, tolerance)
        })
        .collect()
}

/// A file of `tests/fixtures`. `UQ4CT_SOURCE` says where the repository is, for a suite that runs
/// on another machine than it was built on.
pub(crate) fn fixture(name: &str) -> PathBuf {
    let source = std::env::var_os("UQ4CT_SOURCE")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    source.join("tests/fixtures").join(name)
}

/// Values and shape of every tensor of a safetensors file.
pub(crate) fn tensors(path: &Path) -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    file.tensors()
        .into_iter()
        .map(|(name, view)| {
            let values = view
                .data()
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect();
            (name, (view.shape().to_vec(), values))
        })
        .collect()
}

/// Where a visitor stands, without the names of enum variants: `layers.0.self_attn.q_proj.lora_a`.
#[derive(Default)]
struct PathStack(Vec<String>);

impl PathStack {
    fn enter(&mut self, name: &str) {
        self.0.push(name.into());
    }

    fn exit(&mut self) {
        self.0.pop();
    }

    fn path(&self) -> String {
        let variants = ["Dense", "Lora", "MixLora"];
        let kept = self
            .0
            .iter()
            .filter(|part| !variants.contains(&part.as_str()));
        kept.cloned().collect::<Vec<_>>().join(".")
    }
}

/// Replaces every parameter by the tensor of its name.
pub(crate) fn load_adapter(model: Llama, path: &Path) -> Llama {
    struct Load(PathStack, BTreeMap<String, (Vec<usize>, Vec<f32>)>);
    impl ModuleMapper for Load {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.0.enter(name);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.0.exit();
        }
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let name = self.0.path();
            let (shape, values) = self
                .1
                .remove(&name)
                .unwrap_or_else(|| panic!("no {name} in the fixture"));
            param.map(|old| {
                assert_eq!(old.dims().to_vec(), shape, "{name}");
                Tensor::from_data(TensorData::new(values, shape), &old.device())
            })
        }
    }
    let mut load = Load(PathStack::default(), tensors(path));
    let model = model.map(&mut load);
    assert!(load.1.is_empty(), "unused: {:?}", load.1.keys());
    model
}

/// The gradient of every parameter by name.
pub(crate) fn named_gradients(
    model: &Llama,
    gradients: &GradientsParams,
) -> BTreeMap<String, Vec<f32>> {
    struct Read<'a>(PathStack, &'a GradientsParams, BTreeMap<String, Vec<f32>>);
    impl ModuleVisitor for Read<'_> {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.0.enter(name);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.0.exit();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = self.1.get::<D>(param.id) {
                self.2.insert(self.0.path(), floats(gradient));
            }
        }
    }
    let mut read = Read(PathStack::default(), gradients, BTreeMap::new());
    model.visit(&mut read);
    read.2
}

/// The value of every parameter by name.
pub(crate) fn named_values<M: Module>(model: &M) -> BTreeMap<String, Vec<f32>> {
    struct Read(PathStack, BTreeMap<String, Vec<f32>>);
    impl ModuleVisitor for Read {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.0.enter(name);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.0.exit();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.1.insert(self.0.path(), floats(param.val()));
        }
    }
    let mut read = Read(PathStack::default(), BTreeMap::new());
    model.visit(&mut read);
    read.1
}

pub(crate) fn floats<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec_as().unwrap()
}

/// Asserts that two lists agree within `tolerance` of the larger list's scale.
pub(crate) fn assert_close(what: &str, found: &[f32], expected: &[f32], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}: length");
    let scale = expected.iter().fold(1e-3f32, |m, v| m.max(v.abs()));
    let worst = found
        .iter()
        .zip(expected)
        .map(|(a, b)| f64::from((a - b).abs()))
        .fold(
            0.0,
            |m: f64, d| if d.is_nan() { f64::INFINITY } else { m.max(d) },
        );
    assert!(
        worst <= tolerance * f64::from(scale),
        "{what}: largest difference {worst:e} at scale {scale}"
    );
}

/// The tiny model without an adapter.
pub(crate) fn tiny_base(device: &Device) -> Llama {
    tiny_layers(2, FloatDType::F32, device)
}

fn tiny_layers(layers: usize, weights: FloatDType, device: &Device) -> Llama {
    let mut config = tiny::config(270);
    config.num_hidden_layers = layers;
    config.sliding_window = vec![None; layers];
    let mut drawn = RandomWeights::new(config.clone(), 1);
    Llama::load(&config, &mut drawn, 128, weights, device).unwrap()
}

/// A mixture of 4 experts of rank 3, top-2.
pub(crate) fn mixture() -> MixLoraConfig {
    MixLoraConfig {
        lora: LoraConfig {
            rank: 3,
            alpha: 6.0,
            ..LoraConfig::default()
        },
        num_experts: 4,
        top_k: 2,
        placement: model::Placement::All,
        mixture_weights: model::MixtureWeights::Renormalized,
        router_init_std: 0.5,
    }
}

/// The adapted tiny model with every B moved away from zero.
pub(crate) fn tiny_adapted(adapter: &AdapterConfig, device: &Device) -> Llama {
    tiny_adapted_layers(2, adapter, device)
}

/// The same with frozen weights of a type.
pub(crate) fn tiny_adapted_in(
    weights: FloatDType,
    adapter: &AdapterConfig,
    device: &Device,
) -> Llama {
    shaken(tiny_layers(2, weights, device), adapter)
}

/// The same with another number of layers.
pub(crate) fn tiny_adapted_layers(
    layers: usize,
    adapter: &AdapterConfig,
    device: &Device,
) -> Llama {
    shaken(tiny_layers(layers, FloatDType::F32, device), adapter)
}

/// A model with an adapter whose every parameter is moved.
fn shaken(base: Llama, adapter: &AdapterConfig) -> Llama {
    struct Shake;
    impl ModuleMapper for Shake {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            param.map(|old| {
                let n = old.shape().num_elements();
                let wave: Vec<f32> = (0..n).map(|i| 0.2 * (i as f32 * 0.7).sin()).collect();
                let shape = old.shape();
                old.clone() + Tensor::from_data(TensorData::new(wave, shape), &old.device())
            })
        }
    }
    base.attach(adapter, 3).unwrap().map(&mut Shake)
}

/// Rows padded to the longest on every device, where tokens are told by their place.
pub(crate) fn exact() -> QuestionBatcher {
    QuestionBatcher {
        options: BatchOptions {
            padding: Padding::Exact,
            ..BatchOptions::default()
        },
    }
}

/// Questions of different lengths with two to four choices.
pub(crate) fn questions(n: usize) -> Vec<EncodedQuestion> {
    (0..n)
        .map(|i| {
            let prompt = (0..5 + i * 5 % 11).map(|t| (3 + i * 31 + t * 17) as u32 % 250);
            let labels: Vec<u32> = (0..2 + i as u32 % 3).map(|c| 100 + c * 3).collect();
            EncodedQuestion::lettered(&format!("q{i}"), prompt.collect(), &labels, i % 2)
        })
        .collect()
}
