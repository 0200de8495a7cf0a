//! Adapters: their settings, initial parameters, router, and the probe that records them. Their
//! matrices live in [`crate::projection`].

mod config;
mod initializer;
pub mod probe;
pub mod router;
mod target;

pub use config::{AdapterConfig, LoraConfig, MixLoraConfig, MixtureWeights, Placement};
pub use initializer::Initializer;
pub use router::{Router, Routing};
pub use target::TargetModule;
