//! The settings of an adapter.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::TargetModule;
use crate::config::ModelConfig;
use crate::error::ModelError;

/// How raw top-k probabilities become the weights of the mixture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MixtureWeights {
    /// Divided by their sum, as the public MixLoRA code does; the weights of a token sum to 1.
    #[default]
    Renormalized,
    /// As they are, on the frozen output too (Eq. 3-4 to the letter): `sum_k p_k (W x + E_k(x))`.
    Raw,
    /// The frozen output whole, the low-rank part weighted by the raw mass: `W x + sum_k p_k
    /// E_k(x)`.
    RawDelta,
    /// As `raw_delta`, divided by the running mean of the kept mass over the training's tokens, one
    /// a router: `W x + sum_k p_k / mean(S) E_k(x)`. The update is as large as the renormalised one
    /// on the mean, and a token's own mass still scales it. No gradient passes through the mean.
    NormalizedDelta,
}

/// Where the experts sit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Placement {
    /// A mixture in every target projection (Eq. 4); two routers a layer, one for attention, one
    /// for the feed-forward block.
    #[default]
    All,
    /// Experts are whole feed-forward blocks, plain LoRA on the attention's targets; one router a
    /// layer (the MixLoRA code).
    Ffn,
}

/// Low-rank adaptation of single projections: `W x + (alpha / rank) B A dropout(x)`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraConfig {
    /// The rank r of the update.
    pub rank: usize,
    /// The numerator of the scaling `alpha / rank`.
    pub alpha: f64,
    /// The probability with which an input of A is dropped in training.
    pub dropout: f64,
    /// The projections that are adapted.
    pub target_modules: BTreeSet<TargetModule>,
    /// The largest initial value of G, whose square is the standard deviation of a random A (BLoB).
    /// `None`: A is fixed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub posterior_std: Option<f64>,
}

/// A mixture of LoRA experts with a top-k router.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MixLoraConfig {
    /// The shape of each expert, and the projections that get a mixture.
    pub lora: LoraConfig,
    /// The number of experts in one mixture, E.
    pub num_experts: usize,
    /// The number of experts that serve one token, k.
    pub top_k: usize,
    /// Where the experts sit.
    pub placement: Placement,
    /// How router probabilities weigh the experts.
    pub mixture_weights: MixtureWeights,
    /// The standard deviation of the router's initial weights.
    pub router_init_std: f64,
}

/// The adapter that is attached to a base model.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum AdapterConfig {
    /// No adapter: the base model alone.
    #[default]
    None,
    /// A plain LoRA on each target projection.
    Lora(LoraConfig),
    /// Mixtures of LoRA experts with routers.
    MixLora(MixLoraConfig),
}

impl LoraConfig {
    /// The scaling of the update, `alpha / rank`.
    pub fn scaling(&self) -> f64 {
        self.alpha / self.rank as f64
    }

    fn validate(&self) -> Result<(), ModelError> {
        if self.rank == 0 || self.rank > 1 << 16 {
            return expected("rank", "1 to 65536", self.rank);
        }
        if !(self.alpha.is_finite() && self.alpha > 0.0) {
            return expected("alpha", "a positive number", self.alpha);
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return expected("dropout", "a probability in [0, 1)", self.dropout);
        }
        if self.target_modules.is_empty() {
            return expected(
                "target_modules",
                "at least one of q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj",
                "none",
            );
        }
        Ok(())
    }

    /// Parameters of the low-rank matrices on one projection of a base model.
    fn parameters_of(&self, target: TargetModule, base: &ModelConfig) -> usize {
        let [d_in, d_out] = sizes(target, base);
        let random = self.posterior_std.map_or(0, |_| d_in);
        (d_in + d_out + random) * self.rank
    }
}

/// An error for a setting of the adapter that is out of range.
fn expected(key: &str, what: &str, got: impl std::fmt::Display) -> Result<(), ModelError> {
    Err(ModelError::setting(
        format!("adapter.{key}"),
        format!("expected {what}, got {got}"),
    ))
}

/// Width of the input and of the output of a projection of a base model.
fn sizes(target: TargetModule, base: &ModelConfig) -> [usize; 2] {
    let (d, f) = (base.hidden_size, base.intermediate_size);
    let q = base.num_attention_heads * base.head_dim;
    let kv = base.num_key_value_heads * base.head_dim;
    match target {
        TargetModule::QProj => [d, q],
        TargetModule::KProj | TargetModule::VProj => [d, kv],
        TargetModule::OProj => [q, d],
        TargetModule::GateProj | TargetModule::UpProj => [d, f],
        TargetModule::DownProj => [f, d],
    }
}

impl MixLoraConfig {
    /// Whether a layer has a router for its attention.
    pub fn routes_attention(&self) -> bool {
        let targets = &self.lora.target_modules;
        self.placement == Placement::All && targets.iter().any(|t| !t.is_mlp())
    }

    /// Whether a layer has a router for its feed-forward block.
    pub fn routes_feed_forward(&self) -> bool {
        self.lora.target_modules.iter().any(|t| t.is_mlp())
    }

    fn validate(&self) -> Result<(), ModelError> {
        self.lora.validate()?;
        if self.num_experts == 0 || self.num_experts > 1 << 12 {
            return expected("num_experts", "1 to 4096", self.num_experts);
        }
        if self.top_k == 0 || self.top_k > self.num_experts {
            let range = format!("1 to num_experts = {}", self.num_experts);
            return expected("top_k", &range, self.top_k);
        }
        if !(self.routes_attention() || self.routes_feed_forward()) {
            return Err(ModelError::setting(
                "adapter.target_modules",
                "placement ffn needs at least one of gate_proj, up_proj, down_proj",
            ));
        }
        if !(self.router_init_std.is_finite() && self.router_init_std >= 0.0) {
            return expected("router_init_std", "0 or more", self.router_init_std);
        }
        Ok(())
    }

    /// Parameters of one decoder layer.
    fn layer_parameters(&self, base: &ModelConfig) -> usize {
        let copies = |target: TargetModule| match (self.placement, target.is_mlp()) {
            (Placement::Ffn, false) => 1,
            _ => self.num_experts,
        };
        let targets = self.lora.target_modules.iter();
        let experts: usize = targets
            .map(|&target| self.lora.parameters_of(target, base) * copies(target))
            .sum();
        let routers = [self.routes_attention(), self.routes_feed_forward()];
        let routers: usize = routers.into_iter().map(usize::from).sum();
        let router = base.hidden_size * self.num_experts
            + usize::from(self.mixture_weights == MixtureWeights::NormalizedDelta);
        experts + routers * router
    }
}

impl AdapterConfig {
    /// Checks that the adapter can be built.
    ///
    /// # Errors
    /// The first setting out of range, with what was expected.
    pub fn validate(&self) -> Result<(), ModelError> {
        match self {
            Self::None => Ok(()),
            Self::Lora(lora) => lora.validate(),
            Self::MixLora(mix) => mix.validate(),
        }
    }

    /// The number of parameters that the adapter adds to a base model.
    pub fn parameters(&self, base: &ModelConfig) -> usize {
        let layer: usize = match self {
            Self::None => 0,
            Self::Lora(lora) => {
                let targets = lora.target_modules.iter();
                targets
                    .map(|&target| lora.parameters_of(target, base))
                    .sum()
            }
            Self::MixLora(mix) => mix.layer_parameters(base),
        };
        layer * base.num_hidden_layers
    }

    /// The settings of the mixture, if the adapter is one.
    pub fn mixture(&self) -> Option<&MixLoraConfig> {
        match self {
            Self::MixLora(mix) => Some(mix),
            _ => None,
        }
    }
}
