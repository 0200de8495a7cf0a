//! The settings of an adapter.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ByName, TargetModule, Targets};
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

/// Where the matrices of an adapter begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum InitialWeights {
    /// A Kaiming uniform, B zero: a fresh adapter changes nothing.
    #[default]
    Kaiming,
    /// The largest singular vectors of the frozen matrix, which keeps the rest (PiSSA, Meng et al.
    /// 2024).
    Pissa,
    /// PiSSA with a randomised decomposition of this many subspace iterations: far faster for large
    /// matrices.
    PissaIterations(u32),
}

/// The prefix of peft's name of PiSSA with a randomised decomposition.
const PISSA_ITERATIONS: &str = "pissa_niter_";

impl InitialWeights {
    /// Whether the matrices are taken out of the frozen one.
    pub fn is_pissa(self) -> bool {
        self != Self::Kaiming
    }
}

impl TryFrom<String> for InitialWeights {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let iterations = name.strip_prefix(PISSA_ITERATIONS);
        match (name.as_str(), iterations.and_then(|n| n.parse().ok())) {
            ("kaiming", _) => Ok(Self::Kaiming),
            ("pissa", _) => Ok(Self::Pissa),
            (_, Some(iterations)) => Ok(Self::PissaIterations(iterations)),
            _ => Err(format!(
                "expected kaiming, pissa or pissa_niter_N with a number N, such as \
                 pissa_niter_16, got {name:?}"
            )),
        }
    }
}

impl From<InitialWeights> for String {
    fn from(weights: InitialWeights) -> Self {
        match weights {
            InitialWeights::Kaiming => "kaiming".into(),
            InitialWeights::Pissa => "pissa".into(),
            InitialWeights::PissaIterations(n) => format!("{PISSA_ITERATIONS}{n}"),
        }
    }
}

/// Low-rank adaptation of single projections: `W x + scaling B A dropout(x)`.
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
    pub target_modules: Targets,
    /// The largest initial value of G, whose square is the standard deviation of a random A (BLoB).
    /// `None`: A is fixed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub posterior_std: Option<f64>,
    /// Whether the scaling is `alpha / sqrt(rank)` (rsLoRA, Kalajdzievski 2023).
    #[serde(default, skip_serializing_if = "is_default")]
    pub use_rslora: bool,
    /// Whether each output has a magnitude of its own, of which the rest is the direction (DoRA,
    /// Liu et al. 2024).
    #[serde(default, skip_serializing_if = "is_default")]
    pub use_dora: bool,
    /// Where A and B begin.
    #[serde(default, skip_serializing_if = "is_default")]
    pub init_lora_weights: InitialWeights,
    /// Ranks of single projections.
    #[serde(default, skip_serializing_if = "ByName::is_empty")]
    pub rank_pattern: ByName<usize>,
    /// Numerators of the scaling of single projections.
    #[serde(default, skip_serializing_if = "ByName::is_empty")]
    pub alpha_pattern: ByName<f64>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A rank-16 update of every projection, scaled by 2, without dropout.
impl Default for LoraConfig {
    fn default() -> Self {
        Self {
            rank: 16,
            alpha: 32.0,
            dropout: 0.0,
            target_modules: TargetModule::ALL.into(),
            posterior_std: None,
            use_rslora: false,
            use_dora: false,
            init_lora_weights: InitialWeights::Kaiming,
            rank_pattern: ByName::default(),
            alpha_pattern: ByName::default(),
        }
    }
}

/// The update of one projection: its rank, and what it is multiplied by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    /// The rank r.
    pub rank: usize,
    /// `alpha / r`, or `alpha / sqrt(r)`.
    pub scaling: f64,
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

/// The largest rank.
const RANKS: usize = 1 << 16;

impl LoraConfig {
    /// The update of a projection of a layer; `None` where there is none.
    pub fn on(&self, layer: usize, target: TargetModule) -> Option<Shape> {
        if !self.target_modules.contains(layer, target) {
            return None;
        }
        let rank = self.rank_pattern.get(layer, target).unwrap_or(self.rank);
        let alpha = self.alpha_pattern.get(layer, target).unwrap_or(self.alpha);
        let divisor = match self.use_rslora {
            true => (rank as f64).sqrt(),
            false => rank as f64,
        };
        Some(Shape {
            rank,
            scaling: alpha / divisor,
        })
    }

    /// Checks the names of projections against a model of so many layers.
    ///
    /// # Errors
    /// Names that fit no projection, or two patterns of which a projection takes different values.
    pub(crate) fn check_names(&self, layers: usize) -> Result<(), ModelError> {
        let all = (0..layers).flat_map(|layer| TargetModule::ALL.map(|target| (layer, target)));
        let mut adapted = all.filter(|(l, t)| self.target_modules.contains(*l, *t));
        let clash = |(layer, target)| {
            let ranks = self.rank_pattern.ambiguous(layer, target);
            let alphas = self.alpha_pattern.ambiguous(layer, target);
            let found = ranks.map(|keys| ("rank_pattern", keys));
            let found = found.or(alphas.map(|keys| ("alpha_pattern", keys)))?;
            Some((layer, target, found))
        };
        let Some(first) = adapted.next() else {
            return Err(ModelError::setting(
                "adapter.target_modules",
                format!(
                    "fits no projection of the model's {layers} layers: names look like \
                     model.layers.0.self_attn.q_proj, and a regular expression has to match the \
                     whole of one"
                ),
            ));
        };
        match std::iter::once(first).chain(adapted).find_map(clash) {
            None => Ok(()),
            Some((layer, target, (key, [one, other]))) => Err(ModelError::setting(
                format!("adapter.{key}"),
                format!(
                    "{one:?} and {other:?} give {} different values: write them so that one of \
                     them fits it",
                    target.full_name(layer)
                ),
            )),
        }
    }

    fn validate(&self) -> Result<(), ModelError> {
        let ranks = self.rank_pattern.values().map(|r| ("rank_pattern", r));
        for (key, rank) in std::iter::once(("rank", self.rank)).chain(ranks) {
            if rank == 0 || rank > RANKS {
                return expected(key, "1 to 65536", rank);
            }
        }
        let alphas = self.alpha_pattern.values().map(|a| ("alpha_pattern", a));
        for (key, alpha) in std::iter::once(("alpha", self.alpha)).chain(alphas) {
            if !(alpha.is_finite() && alpha > 0.0) {
                return expected(key, "a positive number", alpha);
            }
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
        if self.posterior_std.is_some() && (self.use_dora || self.init_lora_weights.is_pissa()) {
            let key = match self.use_dora {
                true => "adapter.use_dora",
                false => "adapter.init_lora_weights",
            };
            return Err(ModelError::setting(
                key,
                "a random A (BLoB) is for a plain LoRA: its prior draws A towards zero, where \
                 DoRA and PiSSA are something else",
            ));
        }
        Ok(())
    }

    /// Parameters of the low-rank matrices on one projection of a base model.
    fn parameters_of(&self, layer: usize, target: TargetModule, base: &ModelConfig) -> usize {
        let Some(shape) = self.on(layer, target) else {
            return 0;
        };
        let [d_in, d_out] = target.sizes(base);
        let random = self.posterior_std.map_or(0, |_| d_in);
        let magnitudes = if self.use_dora { d_out } else { 0 };
        (d_in + d_out + random) * shape.rank + magnitudes
    }
}

/// An error for a setting of the adapter that is out of range.
fn expected(key: &str, what: &str, got: impl std::fmt::Display) -> Result<(), ModelError> {
    Err(ModelError::setting(
        format!("adapter.{key}"),
        format!("expected {what}, got {got}"),
    ))
}

impl MixLoraConfig {
    /// Whether a layer has a router for its attention.
    pub fn routes_attention(&self) -> bool {
        self.placement == Placement::All && self.targets().any(|t| !t.is_mlp())
    }

    /// Whether a layer has a router for its feed-forward block.
    pub fn routes_feed_forward(&self) -> bool {
        self.targets().any(TargetModule::is_mlp)
    }

    /// The projections that get a mixture, or a plain LoRA beside one, in every layer.
    pub fn targets(&self) -> impl Iterator<Item = TargetModule> {
        let modules = self.lora.target_modules.modules();
        modules.into_iter().flatten().copied()
    }

    /// Refuses what only a plain LoRA can be.
    fn validate_kind(&self) -> Result<(), ModelError> {
        let refuse = |key: &str, reason: &str| {
            let reason = format!("{reason}: use a method with one LoRA, or leave it out");
            Err(ModelError::setting(format!("adapter.{key}"), reason))
        };
        let lora = &self.lora;
        if lora.target_modules.modules().is_none() {
            let reason = "a mixture has routers that serve the same projections in every layer, \
                          a list of their names";
            return refuse("target_modules", reason);
        }
        if lora.use_dora {
            return refuse("use_dora", "a mixture of experts has no magnitudes (DoRA)");
        }
        if lora.init_lora_weights.is_pissa() {
            let reason = "experts that begin at the same singular vectors would be one expert";
            return refuse("init_lora_weights", reason);
        }
        Ok(())
    }

    /// Checks the numbers of the mixture.
    ///
    /// # Errors
    /// The first out of range, with what was expected.
    pub fn validate_numbers(&self) -> Result<(), ModelError> {
        self.lora.validate()?;
        if self.num_experts == 0 || self.num_experts > 1 << 12 {
            return expected("num_experts", "1 to 4096", self.num_experts);
        }
        if self.top_k == 0 || self.top_k > self.num_experts {
            let range = format!("1 to num_experts = {}", self.num_experts);
            return expected("top_k", &range, self.top_k);
        }
        if !(self.router_init_std.is_finite() && self.router_init_std >= 0.0) {
            return expected("router_init_std", "0 or more", self.router_init_std);
        }
        Ok(())
    }

    fn validate(&self) -> Result<(), ModelError> {
        self.validate_numbers()?;
        self.validate_kind()?;
        if !(self.routes_attention() || self.routes_feed_forward()) {
            return Err(ModelError::setting(
                "adapter.target_modules",
                "placement ffn needs at least one of gate_proj, up_proj, down_proj",
            ));
        }
        Ok(())
    }

    /// Parameters of one decoder layer.
    fn layer_parameters(&self, layer: usize, base: &ModelConfig) -> usize {
        let copies = |target: TargetModule| match (self.placement, target.is_mlp()) {
            (Placement::Ffn, false) => 1,
            _ => self.num_experts,
        };
        let experts: usize = self
            .targets()
            .map(|target| self.lora.parameters_of(layer, target, base) * copies(target))
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

    /// The number of parameters that the adapter adds to a base model and that are trained.
    pub fn parameters(&self, base: &ModelConfig) -> usize {
        let layers = 0..base.num_hidden_layers;
        match self {
            Self::None => 0,
            Self::Lora(lora) => {
                let of = |layer| TargetModule::ALL.map(|t| lora.parameters_of(layer, t, base));
                layers.flat_map(of).sum()
            }
            Self::MixLora(mix) => layers.map(|layer| mix.layer_parameters(layer, base)).sum(),
        }
    }

    /// Checks that the adapter can be built on a model of so many layers.
    ///
    /// # Errors
    /// The first setting that cannot be used, with what was expected.
    pub(crate) fn check_on(&self, layers: usize) -> Result<(), ModelError> {
        self.validate()?;
        match self {
            Self::None => Ok(()),
            Self::Lora(lora) => lora.check_names(layers),
            Self::MixLora(mix) => mix.lora.check_names(layers),
        }
    }

    /// The settings of the mixture, if the adapter is one.
    pub fn mixture(&self) -> Option<&MixLoraConfig> {
        match self {
            Self::MixLora(mix) => Some(mix),
            _ => None,
        }
    }
}
