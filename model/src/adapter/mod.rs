//! What is trainable: LoRA, MixLoRA and the router, and how they are asked for.

use std::collections::BTreeSet;

use burn::module::Param;
use burn::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::ModelConfig;
use crate::error::ModelError;

pub mod dropout;
pub mod probe;
pub mod router;

pub use router::{Router, Routing};

/// A linear projection of a decoder layer.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum TargetModule {
    /// Query.
    QProj,
    /// Key.
    KProj,
    /// Value.
    VProj,
    /// Attention output.
    OProj,
    /// SwiGLU's gate.
    GateProj,
    /// SwiGLU's up.
    UpProj,
    /// SwiGLU's down.
    DownProj,
}

impl TargetModule {
    /// All seven, in the order of the forward pass.
    pub const ALL: [Self; 7] = [
        Self::QProj,
        Self::KProj,
        Self::VProj,
        Self::OProj,
        Self::GateProj,
        Self::UpProj,
        Self::DownProj,
    ];

    /// As Hugging Face has it: `q_proj`, ..
    pub fn name(self) -> &'static str {
        let path = self.path();
        path.rsplit('.').next().unwrap_or(path)
    }

    /// Its place in a decoder layer, as Hugging Face has it: `self_attn.q_proj`, ..
    pub fn path(self) -> &'static str {
        match self {
            Self::QProj => "self_attn.q_proj",
            Self::KProj => "self_attn.k_proj",
            Self::VProj => "self_attn.v_proj",
            Self::OProj => "self_attn.o_proj",
            Self::GateProj => "mlp.gate_proj",
            Self::UpProj => "mlp.up_proj",
            Self::DownProj => "mlp.down_proj",
        }
    }

    /// Whether it belongs to the feed-forward block.
    pub fn is_mlp(self) -> bool {
        matches!(self, Self::GateProj | Self::UpProj | Self::DownProj)
    }
}

/// How raw top-k probabilities become the weights of the mixture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MixtureWeights {
    /// Divided by their sum, as the public MixLoRA code does; the weights of a token sum to 1.
    #[default]
    Renormalized,
    /// As they are, on the frozen output too (Eq. 3-4 to the letter): `sum_k p_k (W x + E_k(x))`.
    Raw,
    /// The frozen output whole, the low-rank part weighted by the raw mass: `W x + sum_k p_k E_k(x)`.
    RawDelta,
}

/// Where the experts sit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Placement {
    /// A mixture in every target projection (Eq. 4); two routers a layer, one for attention, one for the feed-forward block.
    #[default]
    All,
    /// Experts are whole feed-forward blocks, plain LoRA on the attention's targets; one router a layer (the MixLoRA code).
    Ffn,
}

/// Low-rank adaptation of single projections: `W x + (alpha / rank) B A dropout(x)`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraConfig {
    /// Rank r of the update.
    pub rank: usize,
    /// Numerator of the scaling `alpha / rank`.
    pub alpha: f64,
    /// Probability with which an input of `A` is dropped in training.
    pub dropout: f64,
    /// Adapted projections.
    pub target_modules: BTreeSet<TargetModule>,
    /// A is random: largest initial value of G, whose square is A's standard deviation (BLoB). Absent: A is fixed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub posterior_std: Option<f64>,
}

/// A mixture of LoRA experts with a top-k router.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MixLoraConfig {
    /// The experts' shape.
    pub lora: LoraConfig,
    /// Experts of one mixture, E.
    pub num_experts: usize,
    /// Experts that serve one token, k.
    pub top_k: usize,
    /// Where the experts sit.
    pub placement: Placement,
    /// How router probabilities weigh the experts.
    pub mixture_weights: MixtureWeights,
    /// Standard deviation of the router's initial weights.
    pub router_init_std: f64,
}

/// What to attach to a base model.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum AdapterConfig {
    /// Nothing: the base model.
    #[default]
    None,
    /// Plain LoRA.
    Lora(LoraConfig),
    /// A mixture of LoRA experts.
    MixLora(MixLoraConfig),
}

impl LoraConfig {
    /// `alpha / rank`
    pub fn scaling(&self) -> f64 {
        self.alpha / self.rank as f64
    }

    fn validate(&self) -> Result<(), ModelError> {
        let expected = |key: &str, what: &str, got: String| {
            Err(ModelError::setting(
                format!("adapter.{key}"),
                format!("expected {what}, got {got}"),
            ))
        };
        if self.rank == 0 || self.rank > 1 << 16 {
            return expected("rank", "1 to 65536", self.rank.to_string());
        }
        if !(self.alpha.is_finite() && self.alpha > 0.0) {
            return expected("alpha", "a positive number", self.alpha.to_string());
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return expected(
                "dropout",
                "a probability in [0, 1)",
                self.dropout.to_string(),
            );
        }
        if self.target_modules.is_empty() {
            return expected(
                "target_modules",
                "at least one of q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj",
                "none".into(),
            );
        }
        Ok(())
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
}

impl AdapterConfig {
    /// Checks that the settings can be built.
    ///
    /// # Errors
    /// The first setting out of range, with what was expected.
    pub fn validate(&self) -> Result<(), ModelError> {
        match self {
            Self::None => Ok(()),
            Self::Lora(lora) => lora.validate(),
            Self::MixLora(mix) => {
                mix.lora.validate()?;
                if mix.num_experts == 0 || mix.num_experts > 1 << 12 {
                    return Err(ModelError::setting(
                        "adapter.num_experts",
                        format!("expected 1 to 4096, got {}", mix.num_experts),
                    ));
                }
                if mix.top_k == 0 || mix.top_k > mix.num_experts {
                    return Err(ModelError::setting(
                        "adapter.top_k",
                        format!(
                            "expected 1 to num_experts = {}, got {}",
                            mix.num_experts, mix.top_k
                        ),
                    ));
                }
                let experts_somewhere = mix.placement == Placement::All
                    || mix.lora.target_modules.iter().any(|t| t.is_mlp());
                if !experts_somewhere {
                    return Err(ModelError::setting(
                        "adapter.target_modules",
                        "placement ffn needs at least one of gate_proj, up_proj, down_proj",
                    ));
                }
                if !(mix.router_init_std.is_finite() && mix.router_init_std >= 0.0) {
                    return Err(ModelError::setting(
                        "adapter.router_init_std",
                        format!("expected 0 or more, got {}", mix.router_init_std),
                    ));
                }
                Ok(())
            }
        }
    }

    /// Parameters that it adds to a base model.
    pub fn parameters(&self, base: &ModelConfig) -> usize {
        let (d, f) = (base.hidden_size, base.intermediate_size);
        let q = base.num_attention_heads * base.head_dim;
        let kv = base.num_key_value_heads * base.head_dim;
        let sizes = |target: &TargetModule| match target {
            TargetModule::QProj => [d, q],
            TargetModule::KProj | TargetModule::VProj => [d, kv],
            TargetModule::OProj => [q, d],
            TargetModule::GateProj | TargetModule::UpProj => [d, f],
            TargetModule::DownProj => [f, d],
        };
        let widths = |target: &TargetModule| sizes(target).iter().sum::<usize>();
        let layer: usize = match self {
            Self::None => 0,
            Self::Lora(lora) => lora
                .target_modules
                .iter()
                .map(|t| {
                    let random = lora.posterior_std.map_or(0, |_| sizes(t)[0]);
                    (widths(t) + random) * lora.rank
                })
                .sum(),
            Self::MixLora(mix) => {
                let ffn = mix.placement == Placement::Ffn;
                let copies = |t: &TargetModule| match ffn && !t.is_mlp() {
                    true => 1,
                    false => mix.num_experts,
                };
                let targets = &mix.lora.target_modules;
                let experts: usize = targets
                    .iter()
                    .map(|t| widths(t) * mix.lora.rank * copies(t))
                    .sum();
                let routers =
                    usize::from(mix.routes_attention()) + usize::from(mix.routes_feed_forward());
                experts + routers * d * mix.num_experts
            }
        };
        layer * base.num_hidden_layers
    }

    /// The mixture's settings, if there is one.
    pub fn mixture(&self) -> Option<&MixLoraConfig> {
        match self {
            Self::MixLora(mix) => Some(mix),
            _ => None,
        }
    }
}

/// Draws initial parameters from one seed, on the host, so that every backend starts from the same numbers.
#[derive(Debug)]
pub struct Initializer {
    rng: ChaCha8Rng,
    device: Device,
}

impl Initializer {
    /// A source of initial parameters on `device`.
    pub fn new(seed: u64, device: &Device) -> Self {
        Self {
            rng: ChaCha8Rng::seed_from_u64(seed),
            device: device.clone(),
        }
    }

    /// PEFT's initial A, Kaiming uniform with a = sqrt(5): `U(-1, 1) / sqrt(fan_in)`.
    pub fn lora_a<const D: usize>(&mut self, shape: [usize; D], fan_in: usize) -> Param<Tensor<D>> {
        let bound = 1.0 / (fan_in as f32).sqrt();
        self.draw(shape, |rng| rng.random_range(-bound..=bound))
    }

    /// Zeros: a fresh adapter changes nothing.
    pub fn lora_b<const D: usize>(&mut self, shape: [usize; D]) -> Param<Tensor<D>> {
        self.draw(shape, |_| 0.0)
    }

    /// BLoB's initial G: `U(eps / sqrt(2), eps)`.
    pub fn posterior_g(&mut self, shape: [usize; 2], eps: f64) -> Param<Tensor<2>> {
        let (low, high) = ((eps / std::f64::consts::SQRT_2) as f32, eps as f32);
        self.draw(shape, |rng| rng.random_range(low..=high))
    }

    /// `N(0, std^2)`, by Box and Muller.
    pub fn normal<const D: usize>(&mut self, shape: [usize; D], std: f64) -> Param<Tensor<D>> {
        self.draw(shape, |rng| {
            let (radius, turn): (f64, f64) = (rng.random(), rng.random());
            let radius = (-2.0 * (1.0 - radius).ln()).sqrt();
            (std * radius * (2.0 * std::f64::consts::PI * turn).cos()) as f32
        })
    }

    fn draw<const D: usize>(
        &mut self,
        shape: [usize; D],
        mut next: impl FnMut(&mut ChaCha8Rng) -> f32,
    ) -> Param<Tensor<D>> {
        let count = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|_| next(&mut self.rng)).collect();
        Param::from_tensor(Tensor::from_data(
            TensorData::new(values, shape),
            &self.device,
        ))
    }
}
