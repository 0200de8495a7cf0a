//! LLaMA-family models with low-rank adapters: tensors in, tensors out.
//!
//! To depend on it: `model = { package = "uq4ct-model", path = ".." }`. `docs/library.md` has more.
//!
//! The crate knows no dataset and no loss. A [`Llama`] is built from a [`ModelConfig`] and a source
//! of weights, and [`Llama::attach`] puts an adapter on it. The frozen base weights are bare
//! tensors, which Burn neither visits nor records nor optimises; every parameter belongs to the
//! adapter.
//!
//! ```
//! use burn::tensor::{Device, FloatDType, Int, Tensor};
//! use model::load::tiny::{self, RandomWeights};
//! use model::{
//!     AdapterConfig, DropoutSeed, Llama, LlamaInput, LoraConfig, MixLoraConfig, MixtureWeights,
//!     Placement, TargetModule,
//! };
//!
//! // A base model: two layers of random weights here, `load::open` for a file.
//! let device = Device::flex();
//! let config = tiny::config(300);
//! let mut weights = RandomWeights::new(config.clone(), 0);
//! let base = Llama::load(&config, &mut weights, 64, FloatDType::F32, &device)?;
//!
//! // Eight experts on every projection, two of which serve a token.
//! let adapter = AdapterConfig::MixLora(MixLoraConfig {
//!     lora: LoraConfig {
//!         rank: 4,
//!         alpha: 8.0,
//!         dropout: 0.05,
//!         target_modules: TargetModule::ALL.into(),
//!         ..LoraConfig::default()
//!     },
//!     num_experts: 8,
//!     top_k: 2,
//!     placement: Placement::All,
//!     mixture_weights: MixtureWeights::Renormalized,
//!     router_init_std: 0.02,
//! });
//! let llama = base.attach(&adapter, 42)?;
//! assert_eq!(llama.trainable_parameters(), adapter.parameters(&config));
//!
//! // One row of six tokens; the logits of the last one are wanted.
//! let output = llama.forward(&LlamaInput {
//!     tokens: Tensor::from_data([[5, 17, 42, 7, 99, 3]], &device),
//!     positions: Tensor::<1, Int>::arange(0..6, &device).unsqueeze(),
//!     segments: Tensor::ones([1, 6], &device),
//!     branches: Tensor::zeros([1, 6], &device),
//!     scored: Tensor::from_data([5], &device),
//!     dropout: DropoutSeed::OFF,
//!     probe: None,
//!     routers_apart: false,
//! });
//! assert_eq!(output.logits.dims(), [1, 300]);
//!
//! // Two routers a layer. The probability that a router gives to the experts it chose is a token's
//! // functional-level uncertainty (Eq. 11); high means certain.
//! assert_eq!(output.routing.len(), 4);
//! for routing in &output.routing {
//!     let mass = routing.mass().mean().into_scalar::<f32>();
//!     assert!(2.0 / 8.0 <= mass && mass <= 1.0);
//! }
//! # Ok::<(), model::ModelError>(())
//! ```
//!
//! | module | content |
//! |---|---|
//! | [`config`] | the shape of a model, from Hugging Face's `config.json` |
//! | [`llama`] | the decoder: `Llama`, `DecoderLayer`, `SelfAttention`, `Mlp` |
//! | [`projection`] | the one place where an adapter meets the base weights |
//! | [`adapter`] | settings of adapters, their initial parameters, the router, the probe |
//! | [`dropout`] | dropout masks and weight noise from explicit seeds |
//! | [`visibility`] | which tokens a token may attend to |
//! | [`cache`] | keys and values of earlier tokens |
//! | [`norm`], [`rope`] | normalisation, and rotary positions |
//! | [`fused`] | operations with a hand-written backward pass, each beside its composed form |
//! | [`load`] | base models from safetensors, GGUF or random weights |
//! | [`exchange`] | adapters as files that other programs read, and theirs as ours |
//! | [`error`] | what can go wrong |
#![recursion_limit = "256"]

pub mod adapter;
mod attach;
pub mod cache;
pub mod config;
pub mod dropout;
pub mod error;
pub mod exchange;
pub mod fused;
pub mod llama;
pub mod load;
pub mod norm;
pub mod projection;
pub mod rope;
pub mod visibility;

pub use adapter::probe::{Capture, Probe};
pub use adapter::{
    AdapterConfig, ByName, InitialWeights, LoraConfig, MixLoraConfig, MixtureWeights, Placement,
    Routing, TargetModule, Targets,
};
pub use cache::KeyValueCache;
pub use config::{ModelConfig, RopeScaling};
pub use dropout::DropoutSeed;
pub use error::ModelError;
pub use llama::{Blocks, Llama, LlamaInput, LlamaOutput};
pub use projection::Projection;
