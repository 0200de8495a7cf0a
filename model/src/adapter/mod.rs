//! Adapters: their settings, initial parameters, router, and the probe that records them. Their
//! matrices live in [`crate::projection`].

mod config;
mod initializer;
mod pissa;
pub mod probe;
pub mod router;
mod target;
mod targets;

pub use config::{
    AdapterConfig, InitialWeights, LoraConfig, MixLoraConfig, MixtureWeights, Placement, Shape,
};
pub use initializer::Initializer;
pub use router::{Router, Routing};
pub use target::{FusedModule, TargetModule};
pub use targets::{ByName, Expression, Targets};
