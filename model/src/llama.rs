//! A decoder of the LLaMA family in reading order: input, output, model, layer, attention,
//! feed-forward block.
//!
//! Reference: `transformers`' `modeling_llama.py`. [`Variant`](crate::config::Variant) says how
//! other families depart from it; what a family does not have costs nothing. [`crate::load`] reads
//! the weights.

use burn::prelude::*;
use burn::tensor::DType;
use burn::tensor::activation::gelu_approximate;

use crate::adapter::probe::{Pass, Probe};
use crate::adapter::{MixtureWeights, Router, Routing, TargetModule};
use crate::cache::{KeyValueCache, LayerCache};
use crate::config::GateActivation;
use crate::dropout::{DropoutSeed, TokenKeys};
use crate::fused;
use crate::fused::activation::{Activation, Origin};
use crate::fused::attention::rotary_attention;
use crate::fused::swiglu::swiglu;
use crate::norm::RmsNorm;
use crate::projection::{Dense, Projection};
use crate::rope::{Angles, Rope};
use crate::visibility::{AttentionKind, Heads, Visibility};

/// Rows of token ids with what attention has to know about each token.
///
/// Segments and branches are general on purpose: padding on either side, several examples packed
/// into one row, and answer branches that share a prompt are all the same mask.
#[derive(Debug, Clone)]
pub struct LlamaInput {
    /// Token ids, `[batch, sequence]`.
    pub tokens: Tensor<2, Int>,
    /// Rotary positions, `[batch, sequence]`.
    pub positions: Tensor<2, Int>,
    /// Segments, `[batch, sequence]`: 0 for padding. Tokens see each other only within one segment.
    pub segments: Tensor<2, Int>,
    /// Branches, `[batch, sequence]`: 0 for the trunk, which every branch sees. A token of branch
    /// b > 0 sees the trunk and b.
    pub branches: Tensor<2, Int>,
    /// Flat indices `row * sequence + column` of the tokens whose logits are wanted, `[scored]`.
    pub scored: Tensor<1, Int>,
    /// Whether dropout and weight noise act in the adapter, and from which seed.
    pub dropout: DropoutSeed,
    /// Records the adapter's layers for a curvature, if given.
    pub probe: Option<Probe>,
    /// Whether to fill [`Routing::apart`].
    pub routers_apart: bool,
}

/// The result of a forward pass.
#[derive(Debug, Clone)]
pub struct LlamaOutput {
    /// Logits of the scored tokens, `[scored, vocabulary]`, f32.
    pub logits: Tensor<2>,
    /// The decisions of all routers, attention before feed-forward, layer by layer; empty without a
    /// mixture. Their rows are the flat tokens.
    pub routing: Vec<Routing>,
}

/// A LLaMA-family decoder. The frozen weights are bare tensors; the parameters are the adapter's.
#[derive(Module, Debug)]
pub struct Llama {
    /// `[vocabulary, d]`
    pub(crate) embed_tokens: Tensor<2>,
    pub(crate) layers: Vec<DecoderLayer>,
    pub(crate) norm: RmsNorm,
    /// `[vocabulary, d]`; `None` shares the embedding.
    pub(crate) lm_head: Option<Tensor<2>>,
    /// The rotations that layers have, each once.
    pub(crate) ropes: Vec<Rope>,
    #[module(skip)]
    pub(crate) multipliers: Multipliers,
}

/// The numbers by which a decoder's parts are multiplied or bounded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Multipliers {
    pub(crate) embedding: f64,
    pub(crate) residual: f64,
    pub(crate) logits_divisor: f64,
    pub(crate) logit_soft_cap: Option<f64>,
}

/// One decoder layer with its routers, if the adapter is a mixture.
#[derive(Module, Debug)]
pub struct DecoderLayer {
    pub(crate) attention_input_norm: Option<RmsNorm>,
    pub(crate) self_attn: SelfAttention,
    pub(crate) attention_output_norm: Option<RmsNorm>,
    pub(crate) mlp_input_norm: Option<RmsNorm>,
    pub(crate) mlp: Mlp,
    pub(crate) mlp_output_norm: Option<RmsNorm>,
    pub(crate) attention_router: Option<Router>,
    pub(crate) mlp_router: Option<Router>,
}

/// Grouped-query attention with rotary positions.
#[derive(Module, Debug)]
pub struct SelfAttention {
    pub(crate) q_proj: Projection,
    pub(crate) k_proj: Projection,
    pub(crate) v_proj: Projection,
    pub(crate) o_proj: Projection,
    pub(crate) q_norm: Option<RmsNorm>,
    pub(crate) k_norm: Option<RmsNorm>,
    /// Factor on the queries beside attention's own `1 / sqrt(head_dim)`.
    #[module(skip)]
    pub(crate) query_factor: Option<f64>,
    /// Place of the layer's rotation among the model's.
    #[module(skip)]
    pub(crate) rope: usize,
    #[module(skip)]
    pub(crate) heads: usize,
    #[module(skip)]
    pub(crate) key_value_heads: usize,
    #[module(skip)]
    pub(crate) window: Option<usize>,
    #[module(skip)]
    pub(crate) soft_cap: Option<f64>,
    #[module(skip)]
    pub(crate) kind: AttentionKind,
}

/// The feed-forward block: `down(act(gate(x)) * up(x))`, with silu SwiGLU.
#[derive(Module, Debug)]
pub struct Mlp {
    pub(crate) gate_proj: Projection,
    pub(crate) up_proj: Projection,
    pub(crate) down_proj: Projection,
    #[module(skip)]
    pub(crate) activation: GateActivation,
    /// Set where the experts are whole feed-forward blocks (placement `ffn`).
    #[module(skip)]
    pub(crate) whole_experts: Option<MixtureWeights>,
}

/// What all layers of one forward pass share.
struct Context {
    /// The angles of each rotation.
    angles: Vec<Angles>,
    visibility: Visibility,
    routers_apart: bool,
    /// Factor on what a block adds to the residual stream.
    residual: f64,
    /// Where something is random.
    keys: Option<TokenKeys>,
}

/// The decoder layers with what they share in one forward pass, to be run one at a time.
pub struct Blocks<'a> {
    llama: &'a Llama,
    input: &'a LlamaInput,
    context: Context,
}

impl Llama {
    /// Runs the decoder, and the head on the scored tokens.
    pub fn forward(&self, input: &LlamaInput) -> LlamaOutput {
        let (hidden, routing) = self.hidden_states(input);
        self.output(hidden, routing, input)
    }

    /// Runs the decoder on tokens that follow those of earlier passes, which the cache remembers:
    /// for writing token by token.
    ///
    /// # Panics
    /// If the number of rows differs from that of the earlier passes.
    pub fn forward_with_cache(&self, input: &LlamaInput, cache: &mut KeyValueCache) -> LlamaOutput {
        let blocks = Blocks {
            llama: self,
            input,
            context: self.context(input, Some(cache)),
        };
        let pass = blocks.pass();
        let (mut x, mut routing) = (blocks.embedded(), Vec::new());
        for (place, layer) in self.layers.iter().enumerate() {
            let own = Some(cache.layer(place));
            x = layer.forward(x, pass.layer(place), &blocks.context, own, &mut routing);
        }
        self.output(x, routing, input)
    }

    /// The residual stream after the last layer, before the final norm, and the decisions of all
    /// routers.
    ///
    /// # Shapes
    /// - output: `[batch * sequence, d]`, f32
    pub fn hidden_states(&self, input: &LlamaInput) -> (Tensor<2>, Vec<Routing>) {
        let blocks = self.blocks(input);
        let (mut x, mut routing) = (blocks.embedded(), Vec::new());
        for place in 0..self.layers.len() {
            x = blocks.forward(place, x, &mut routing);
        }
        (x, routing)
    }

    /// The decoder layers, to be run one at a time on one input.
    pub fn blocks<'a>(&'a self, input: &'a LlamaInput) -> Blocks<'a> {
        Blocks {
            llama: self,
            input,
            context: self.context(input, None),
        }
    }

    /// The result of a forward pass, from the residual stream after the last layer and the
    /// decisions of all routers.
    pub fn output(
        &self,
        hidden: Tensor<2>,
        routing: Vec<Routing>,
        input: &LlamaInput,
    ) -> LlamaOutput {
        let scored = hidden.select(0, input.scored.clone());
        LlamaOutput {
            logits: self.head(scored),
            routing,
        }
    }

    /// Applies the final norm and the vocabulary head.
    ///
    /// # Shapes
    /// - hidden: `[rows, d]`, output: `[rows, vocabulary]`, f32
    pub fn head(&self, hidden: Tensor<2>) -> Tensor<2> {
        let weight = self.lm_head.as_ref().unwrap_or(&self.embed_tokens).clone();
        let normed = self.norm.forward(hidden).into_value();
        let logits = Dense::new(weight, None).forward(normed);
        let logits = match self.multipliers.logits_divisor {
            1.0 => logits,
            divisor => logits / divisor,
        };
        match self.multipliers.logit_soft_cap {
            None => logits,
            Some(cap) => (logits / cap).tanh() * cap,
        }
    }

    /// The same model with this kind of attention in every layer; without a word it is exact.
    pub fn with_attention(mut self, kind: AttentionKind) -> Self {
        for layer in &mut self.layers {
            layer.self_attn.kind = kind;
        }
        self
    }

    /// The number of decoder layers.
    pub fn layers(&self) -> usize {
        self.layers.len()
    }

    /// The number of tokens in the vocabulary.
    pub fn vocabulary(&self) -> usize {
        self.embed_tokens.dims()[0]
    }

    fn context(&self, input: &LlamaInput, cache: Option<&mut KeyValueCache>) -> Context {
        let new = Visibility::new(
            input.segments.clone(),
            input.branches.clone(),
            input.positions.clone(),
        );
        let first = cache.as_ref().is_none_or(|cache| cache.tokens() == 0);
        let visibility = match cache {
            None => new,
            Some(cache) => cache.extend(new, self.layers.len()),
        };
        // Only the composed form and a look back past a pass's own tokens read masks.
        let heads = self.layers.iter().map(|layer| layer.self_attn.heads());
        let unmasked = first && !fused::is_composed();
        Context {
            routers_apart: input.routers_apart,
            residual: self.multipliers.residual,
            keys: input.dropout.value().map(|_| {
                TokenKeys::new(
                    input.tokens.clone(),
                    input.positions.clone(),
                    input.segments.clone(),
                    input.branches.clone(),
                )
            }),
            angles: self
                .ropes
                .iter()
                .map(|rope| rope.angles(input.positions.clone()))
                .collect(),
            visibility: match unmasked {
                true => visibility,
                false => visibility.with_masks(heads),
            },
        }
    }
}

impl Blocks<'_> {
    /// What accompanies the pass, before the first layer.
    fn pass(&self) -> Pass<'_> {
        let keys = self.context.keys.as_ref();
        Pass::new(self.input.dropout, keys, self.input.probe.as_ref())
    }

    /// The residual stream before the first layer, `[batch * sequence, d]`, f32.
    pub fn embedded(&self) -> Tensor<2> {
        let flat = self.input.tokens.clone().flatten(0, 1);
        let embed_tokens = self.llama.embed_tokens.clone();
        let embedded = embed_tokens.select(0, flat).cast(DType::F32);
        match self.llama.multipliers.embedding {
            1.0 => embedded,
            factor => embedded * factor,
        }
    }

    /// The residual stream after the layer at `place`. The decisions of the layer's routers are
    /// appended to `routing`.
    ///
    /// # Shapes
    /// - x, output: `[batch * sequence, d]`
    pub fn forward(&self, place: usize, x: Tensor<2>, routing: &mut Vec<Routing>) -> Tensor<2> {
        let pass = self.pass().layer(place);
        self.llama.layers[place].forward(x, pass, &self.context, None, routing)
    }
}

impl DecoderLayer {
    /// # Shapes
    /// - x, output: `[batch * sequence, d]`
    fn forward(
        &self,
        x: Tensor<2>,
        pass: Pass,
        context: &Context,
        cache: Option<&mut LayerCache>,
        routing: &mut Vec<Routing>,
    ) -> Tensor<2> {
        let input = normed(&self.attention_input_norm, &x);
        let decision = decide(&self.attention_router, &input, context);
        let attended = self
            .self_attn
            .forward(input, decision.as_ref(), pass, context, cache);
        let x = added(x, attended, &self.attention_output_norm, context);
        routing.extend(decision);
        let input = normed(&self.mlp_input_norm, &x);
        let decision = decide(&self.mlp_router, &input, context);
        let fed = self.mlp.forward(input, decision.as_ref(), pass);
        routing.extend(decision);
        added(x, fed, &self.mlp_output_norm, context)
    }
}

/// The residual stream as a block reads it.
fn normed(norm: &Option<RmsNorm>, x: &Tensor<2>) -> Activation {
    match norm {
        Some(norm) => norm.forward(x.clone()),
        None => x.clone().into(),
    }
}

/// The residual stream with what a block adds to it.
fn added(x: Tensor<2>, y: Tensor<2>, norm: &Option<RmsNorm>, context: &Context) -> Tensor<2> {
    let y = match norm {
        Some(norm) => norm.forward(y).into_value(),
        None => y,
    };
    match context.residual {
        1.0 => x + y,
        factor => x + y * factor,
    }
}

/// The decision of a router, if there is one.
fn decide(router: &Option<Router>, x: &Activation, context: &Context) -> Option<Routing> {
    let router = router.as_ref()?;
    Some(router.forward(x.clone(), context.routers_apart))
}

impl SelfAttention {
    /// # Shapes
    /// - x, output: `[batch * sequence, d]`
    fn forward(
        &self,
        x: Activation,
        routing: Option<&Routing>,
        pass: Pass,
        context: &Context,
        cache: Option<&mut LayerCache>,
    ) -> Tensor<2> {
        let q = self
            .q_proj
            .forward(x.clone(), routing, pass.at(TargetModule::QProj));
        let k = self
            .k_proj
            .forward(x.clone(), routing, pass.at(TargetModule::KProj));
        let v = self
            .v_proj
            .forward(x, routing, pass.at(TargetModule::VProj));
        let q = normed_heads(&self.q_norm, q);
        let k = normed_heads(&self.k_norm, k);
        let q = match self.query_factor {
            Some(factor) => q * factor,
            None => q,
        };
        let (angles, visibility) = (&context.angles[self.rope], &context.visibility);
        let mixed = match cache {
            None => {
                let kept = self.v_proj.base().kept_type(&v);
                let [q, k, v] = [q, k, v].map(|t| t.cast(kept));
                rotary_attention([q, k, v], angles, visibility, self.heads()).cast(kept)
            }
            Some(cache) => cache.attention([q, k, v], angles, visibility, self.heads()),
        };
        self.o_proj
            .forward(mixed.into(), routing, pass.at(TargetModule::OProj))
    }

    fn heads(&self) -> Heads {
        Heads {
            queries: self.heads,
            keys: self.key_value_heads,
            window: self.window,
            soft_cap: self.soft_cap,
            attention: self.kind,
        }
    }
}

/// Queries or keys after their norm: one of a head's width takes every head by itself, one of the
/// whole width all of a token's heads together.
///
/// # Shapes
/// - x, output: `[tokens, heads * head_dim]`
fn normed_heads(norm: &Option<RmsNorm>, x: Tensor<2>) -> Tensor<2> {
    let Some(norm) = norm else {
        return x;
    };
    let [tokens, width] = x.dims();
    let part = norm.width();
    let normed = norm.forward(x.reshape([tokens * width / part, part]));
    normed.into_value().reshape([tokens, width])
}

impl Mlp {
    /// # Shapes
    /// - x, output: `[batch * sequence, d]`
    fn forward(&self, x: Activation, routing: Option<&Routing>, pass: Pass) -> Tensor<2> {
        if let (Some(mixture_weights), Some(routing)) = (self.whole_experts, routing) {
            return self.forward_experts(x.into_value(), routing, mixture_weights, pass);
        }
        let gate = self
            .gate_proj
            .forward(x.clone(), routing, pass.at(TargetModule::GateProj));
        let up = self
            .up_proj
            .forward(x, routing, pass.at(TargetModule::UpProj));
        let inside = match self.activation {
            GateActivation::Silu => {
                let kept = self.up_proj.base().kept_type(&up);
                let [gate, up] = [gate, up].map(|t| t.cast(kept));
                Activation {
                    value: swiglu(gate.clone(), up.clone()),
                    origin: Origin::SwiGlu { gate, up },
                }
            }
            GateActivation::GeluTanh => self.gated(gate, up).into(),
        };
        self.down_proj
            .forward(inside, routing, pass.at(TargetModule::DownProj))
    }

    /// `act(gate) * up`
    fn gated(&self, gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
        match self.activation {
            GateActivation::Silu => swiglu(gate, up),
            GateActivation::GeluTanh => gelu_approximate(gate) * up,
        }
    }

    /// `sum_k w_k F_k(x)` where `F_k` is the whole block with expert k's updates (the MixLoRA
    /// code).
    ///
    /// The frozen gate and up are computed once. Down is linear, so the frozen down runs once on
    /// the weighted sum.
    fn forward_experts(
        &self,
        x: Tensor<2>,
        routing: &Routing,
        mixture_weights: MixtureWeights,
        pass: Pass,
    ) -> Tensor<2> {
        let gate = self.gate_proj.base().forward(x.clone());
        let up = self.up_proj.base().forward(x.clone());
        let slots: Vec<Slot> = (0..routing.weights.dims()[1])
            .map(|slot| {
                let expert = routing.experts.clone().narrow(1, slot, 1);
                let pass = pass.slot(slot);
                let (at_gate, at_up) = (
                    pass.at(TargetModule::GateProj),
                    pass.at(TargetModule::UpProj),
                );
                let hidden = self.gated(
                    with_expert(&self.gate_proj, gate.clone(), &x, &expert, at_gate),
                    with_expert(&self.up_proj, up.clone(), &x, &expert, at_up),
                );
                Slot {
                    hidden,
                    expert,
                    weight: column(&routing.weights, slot),
                    pass: pass.at(TargetModule::DownProj),
                }
            })
            .collect();
        let weighted = slots
            .iter()
            .map(|slot| slot.hidden.clone() * slot.weight.clone());
        let mut inside = weighted
            .reduce(|sum, term| sum + term)
            .expect("top_k is at least 1");
        if mixture_weights == MixtureWeights::RawDelta {
            // base(x) + sum p_k (F_k(x) - base(x)): the frozen block keeps the mass that the
            // experts leave.
            inside = inside + self.gated(gate, up) * (routing.mass().neg() + 1.0);
        } else if mixture_weights == MixtureWeights::NormalizedDelta {
            let given = routing.weights.clone().sum_dim(1);
            inside = inside + self.gated(gate, up) * (given.neg() + 1.0);
        }
        let frozen = self.down_proj.base().forward(inside);
        let Some(down) = self.down_proj.mixture() else {
            return frozen;
        };
        slots.into_iter().fold(frozen, |y, slot| {
            down.updated(y, slot.hidden, slot.expert, slot.weight, slot.pass)
        })
    }
}

/// One of the k experts of every token, in a feed-forward block of whole experts.
struct Slot<'a> {
    /// The input of down, `[tokens, f]`.
    hidden: Tensor<2>,
    /// The expert of each token, `[tokens, 1]`.
    expert: Tensor<2, Int>,
    /// The weight of each token's expert, `[tokens, 1]`.
    weight: Tensor<2>,
    /// The pass at down.
    pass: Pass<'a>,
}

/// The frozen output plus one expert's update for each token.
fn with_expert(
    projection: &Projection,
    frozen: Tensor<2>,
    x: &Tensor<2>,
    expert: &Tensor<2, Int>,
    pass: Pass,
) -> Tensor<2> {
    match projection.mixture() {
        Some(mix) => {
            let one = Tensor::ones(expert.dims(), (&x.device(), DType::F32));
            mix.updated(frozen, x.clone(), expert.clone(), one, pass)
        }
        None => frozen,
    }
}

/// One column of a matrix, `[n, 1]`, as the product with a one-hot row.
///
/// `narrow` would say the same. With it a router's gradient was once off by nine tenths under
/// Burn's fusion, before its fused matrix products were found to give wrong gradients; whether
/// `narrow` had a part in that is not known.
fn column(matrix: &Tensor<2>, column: usize) -> Tensor<2> {
    let [_, columns] = matrix.dims();
    let device = matrix.device().without_autodiff();
    let one_hot = Tensor::<1, Int>::arange(0..columns as i64, &device)
        .equal_scalar(column as i64)
        .float()
        .cast(matrix.dtype());
    (matrix.clone() * one_hot.unsqueeze()).sum_dim(1)
}
