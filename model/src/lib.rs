//! LLaMA-family models with low-rank adapters: tensors in, tensors out.
//!
//! The crate knows no dataset and no loss. A [`Llama`] is built from a [`ModelConfig`] and a [`load::Weights`] source; its frozen
//! base weights are bare tensors, so that Burn neither visits nor records nor optimises them, and everything that *is* a
//! parameter belongs to the adapter.
//!
//! | module | content |
//! |---|---|
//! | [`config`] | Hugging Face's `config.json`, read and resolved |
//! | [`llama`] | `Llama`, `DecoderLayer`, `SelfAttention`, `Mlp` |
//! | [`projection`] | the one seam where an adapter meets the base weights |
//! | [`adapter`] | LoRA, MixLoRA, the router |
//! | [`fused`] | operations with a hand-written backward, each beside its composed form |
//! | [`exchange`] | adapters as files that others read, and theirs as ours |
//! | [`load`] | safetensors, GGUF and random weights |
#![recursion_limit = "256"]

pub mod adapter;
pub mod cache;
pub mod config;
pub mod error;
pub mod exchange;
pub mod fused;
pub mod llama;
pub mod load;
pub mod norm;
pub mod projection;
pub mod rope;

pub use adapter::dropout::DropoutSeed;
pub use adapter::probe::{Capture, Probe};
pub use adapter::{
    AdapterConfig, LoraConfig, MixLoraConfig, MixtureWeights, Placement, Routing, TargetModule,
};
pub use cache::KeyValueCache;
pub use config::{ModelConfig, RopeScaling};
pub use error::ModelError;
pub use llama::{Blocks, Llama, LlamaInput, LlamaOutput};
pub use projection::Projection;
