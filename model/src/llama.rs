//! A whole decoder in reading order: input, output, attention, feed-forward block, layer, model.
//!
//! Reference: `transformers`' `modeling_llama.py`; Mistral adds a sliding window, Qwen2 a bias on q, k and v.

use burn::module::{ModuleVisitor, Param};
use burn::prelude::*;
use burn::tensor::{DType, FloatDType};

use crate::adapter::dropout::DropoutSeed;
use crate::adapter::probe::{Pass, Probe};
use crate::adapter::{
    AdapterConfig, Initializer, LoraConfig, MixLoraConfig, MixtureWeights, Placement, Router,
    Routing, TargetModule,
};
use crate::cache::{KeyValueCache, LayerCache};
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::exchange::Tensors;
use crate::fused;
use crate::fused::Made;
use crate::fused::attention::{Heads, Visibility, rotary_attention};
use crate::fused::swiglu::swiglu;
use crate::load::Weights;
use crate::norm::RmsNorm;
use crate::projection::{Dense, Lora, Projection};
use crate::rope::{Angles, Rope};

/// Rows of token ids with what attention has to know about each token.
///
/// Segments and branches are general on purpose: padding on either side, several examples packed into one row, and answer
/// branches that share a prompt are all the same mask.
#[derive(Debug, Clone)]
pub struct LlamaInput {
    /// Token ids, `[batch, sequence]`.
    pub tokens: Tensor<2, Int>,
    /// Rotary positions, `[batch, sequence]`.
    pub positions: Tensor<2, Int>,
    /// 0 for padding; tokens see each other only within one segment. `[batch, sequence]`
    pub segments: Tensor<2, Int>,
    /// 0 for the trunk, which every branch sees; a token of branch b > 0 sees the trunk and b. `[batch, sequence]`
    pub branches: Tensor<2, Int>,
    /// Flat indices `row * sequence + column` of the tokens whose logits are wanted, `[scored]`.
    pub scored: Tensor<1, Int>,
    /// Whether what is random in the adapter acts, and from which seed.
    pub dropout: DropoutSeed,
    /// Records the adapter's layers for a curvature.
    pub probe: Option<Probe>,
    /// Fill [`Routing::apart`].
    pub routers_apart: bool,
}

/// What the model says.
#[derive(Debug, Clone)]
pub struct LlamaOutput {
    /// `[scored, vocabulary]`, f32.
    pub logits: Tensor<2>,
    /// One entry a router, attention before feed-forward, layer by layer; empty without a mixture. Rows are the flat tokens.
    pub routing: Vec<Routing>,
}

/// What all layers of one forward pass share.
struct Context {
    angles: Angles,
    visibility: Visibility,
    routers_apart: bool,
}

/// Grouped-query attention with rotary positions.
#[derive(Module, Debug)]
pub struct SelfAttention {
    q_proj: Projection,
    k_proj: Projection,
    v_proj: Projection,
    o_proj: Projection,
    #[module(skip)]
    heads: usize,
    #[module(skip)]
    key_value_heads: usize,
    #[module(skip)]
    window: Option<usize>,
}

/// SwiGLU: `down(silu(gate(x)) * up(x))`.
#[derive(Module, Debug)]
pub struct Mlp {
    gate_proj: Projection,
    up_proj: Projection,
    down_proj: Projection,
    /// Set where the experts are whole feed-forward blocks (placement `ffn`).
    #[module(skip)]
    whole_experts: Option<MixtureWeights>,
}

/// One decoder layer with its routers, if the adapter is a mixture.
#[derive(Module, Debug)]
pub struct DecoderLayer {
    input_layernorm: RmsNorm,
    self_attn: SelfAttention,
    post_attention_layernorm: RmsNorm,
    mlp: Mlp,
    attention_router: Option<Router>,
    mlp_router: Option<Router>,
}

/// A LLaMA-family decoder. The frozen weights are bare tensors; the parameters are the adapter's.
#[derive(Module, Debug)]
pub struct Llama {
    /// `[vocabulary, d]`
    embed_tokens: Tensor<2>,
    layers: Vec<DecoderLayer>,
    norm: RmsNorm,
    /// `[vocabulary, d]`; `None` shares the embedding.
    lm_head: Option<Tensor<2>>,
    rope: Rope,
}

impl SelfAttention {
    /// # Shapes
    /// - x, output: `[batch * sequence, d]`
    fn forward(
        &self,
        x: (Tensor<2>, Made),
        routing: Option<&Routing>,
        pass: Pass,
        context: &Context,
        cache: Option<&mut LayerCache>,
    ) -> Tensor<2> {
        let q = self.q_proj.forward(x.clone(), routing, pass.at(0));
        let k = self.k_proj.forward(x.clone(), routing, pass.at(1));
        let v = self.v_proj.forward(x, routing, pass.at(2));
        let (angles, visibility) = (&context.angles, &context.visibility);
        let mixed = match cache {
            None => rotary_attention([q, k, v], angles, visibility, self.heads()),
            Some(cache) => cache.attention([q, k, v], angles, visibility, self.heads()),
        };
        self.o_proj
            .forward((mixed, Made::Unknown), routing, pass.at(3))
    }

    fn heads(&self) -> Heads {
        Heads {
            queries: self.heads,
            keys: self.key_value_heads,
            window: self.window,
        }
    }
}

impl Mlp {
    /// # Shapes
    /// - x, output: `[batch * sequence, d]`
    fn forward(&self, x: (Tensor<2>, Made), routing: Option<&Routing>, pass: Pass) -> Tensor<2> {
        if let (Some(mixture_weights), Some(routing)) = (self.whole_experts, routing) {
            return self.forward_experts(x.0, routing, mixture_weights, pass);
        }
        let gate = self.gate_proj.forward(x.clone(), routing, pass.at(4));
        let up = self.up_proj.forward(x, routing, pass.at(5));
        let inside = swiglu(gate.clone(), up.clone());
        let made = Made::Gated([gate, up]);
        self.down_proj.forward((inside, made), routing, pass.at(6))
    }

    /// `sum_k w_k F_k(x)` where `F_k` is the whole block with expert k's updates (the MixLoRA code).
    ///
    /// The frozen gate and up are computed once. Down is linear, so the frozen down runs once on the weighted sum.
    fn forward_experts(
        &self,
        x: Tensor<2>,
        routing: &Routing,
        mixture_weights: MixtureWeights,
        pass: Pass,
    ) -> Tensor<2> {
        let gate = self.gate_proj.base().forward(x.clone());
        let up = self.up_proj.base().forward(x.clone());
        let k = routing.weights.dims()[1];
        let (mut inside, mut slots) = (None, Vec::with_capacity(k));
        for slot in 0..k {
            let expert = routing.experts.clone().narrow(1, slot, 1);
            let weight = routing.weights.clone().narrow(1, slot, 1);
            let pass = pass.at(8 + slot as u64);
            let hidden = swiglu(
                with_expert(&self.gate_proj, gate.clone(), &x, &expert, pass.at(4)),
                with_expert(&self.up_proj, up.clone(), &x, &expert, pass.at(5)),
            );
            inside = Some(sum(inside, hidden.clone() * weight.clone()));
            slots.push((hidden, expert, weight, pass.at(6).seed));
        }
        let mut inside: Tensor<2> = inside.expect("top_k is at least 1");
        if mixture_weights == MixtureWeights::RawDelta {
            // base(x) + sum p_k (F_k(x) - base(x)): the frozen block keeps the mass that the experts leave.
            inside = inside + swiglu(gate, up) * (routing.mass().neg() + 1.0);
        }
        let frozen = self.down_proj.base().forward(inside);
        let Some(down) = self.down_proj.mixture() else {
            return frozen;
        };
        slots
            .into_iter()
            .fold(frozen, |y, (hidden, expert, weight, drop)| {
                down.updated(y, hidden, expert, weight, drop)
            })
    }
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
            mix.updated(frozen, x.clone(), expert.clone(), one, pass.seed)
        }
        None => frozen,
    }
}

fn sum(total: Option<Tensor<2>>, term: Tensor<2>) -> Tensor<2> {
    match total {
        Some(total) => total + term,
        None => term,
    }
}

/// The decoder layers with what they share in one forward pass.
pub struct Blocks<'a> {
    llama: &'a Llama,
    input: &'a LlamaInput,
    context: Context,
}

impl Blocks<'_> {
    /// The residual stream before the first layer, `[batch * sequence, d]`, f32.
    pub fn embedded(&self) -> Tensor<2> {
        let flat = self.input.tokens.clone().flatten(0, 1);
        let embed_tokens = self.llama.embed_tokens.clone();
        embed_tokens.select(0, flat).cast(DType::F32)
    }

    /// The residual stream after layer `place`; its routers' decisions follow those already there.
    ///
    /// # Shapes
    /// - x, output: `[batch * sequence, d]`
    pub fn forward(&self, place: usize, x: Tensor<2>, routing: &mut Vec<Routing>) -> Tensor<2> {
        let pass = Pass::new(self.input.dropout, self.input.probe.as_ref());
        self.llama.layers[place].forward(x, pass.layer(place), &self.context, None, routing)
    }
}

impl DecoderLayer {
    fn forward(
        &self,
        x: Tensor<2>,
        pass: Pass,
        context: &Context,
        cache: Option<&mut LayerCache>,
        routing: &mut Vec<Routing>,
    ) -> Tensor<2> {
        let normed = self.input_layernorm.forward(x.clone());
        let decision = self
            .attention_router
            .as_ref()
            .map(|router| router.forward(normed.clone(), context.routers_apart));
        let x = x + self
            .self_attn
            .forward(normed, decision.as_ref(), pass, context, cache);
        routing.extend(decision);
        let normed = self.post_attention_layernorm.forward(x.clone());
        let decision = self
            .mlp_router
            .as_ref()
            .map(|router| router.forward(normed.clone(), context.routers_apart));
        let x = x + self.mlp.forward(normed, decision.as_ref(), pass);
        routing.extend(decision);
        x
    }
}

impl Llama {
    /// Runs the decoder and the head on the scored tokens.
    pub fn forward(&self, input: &LlamaInput) -> LlamaOutput {
        let (hidden, routing) = self.hidden_states(input);
        self.output(hidden, routing, input)
    }

    /// The same with the tokens of earlier passes before these, which are remembered in their turn: for writing token by token.
    ///
    /// # Panics
    /// Another number of rows than in the passes before.
    pub fn forward_with_cache(&self, input: &LlamaInput, cache: &mut KeyValueCache) -> LlamaOutput {
        let blocks = Blocks {
            llama: self,
            input,
            context: self.context(input, Some(cache)),
        };
        let pass = Pass::new(input.dropout, input.probe.as_ref());
        let (mut x, mut routing) = (blocks.embedded(), Vec::new());
        for (place, layer) in self.layers.iter().enumerate() {
            let own = Some(cache.layer(place));
            x = layer.forward(x, pass.layer(place), &blocks.context, own, &mut routing);
        }
        self.output(x, routing, input)
    }

    /// The residual stream after the last layer, before the final norm.
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

    /// What the model says, from the residual stream after the last layer.
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

    /// Final norm and vocabulary head.
    ///
    /// # Shapes
    /// - hidden: `[rows, d]`, output: `[rows, vocabulary]`, f32
    pub fn head(&self, hidden: Tensor<2>) -> Tensor<2> {
        let weight = self.lm_head.as_ref().unwrap_or(&self.embed_tokens).clone();
        let (normed, _) = self.norm.forward(hidden);
        Dense::new(weight, None).forward(normed)
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
        // The fused operation needs no masks; it cannot look back past its own tokens.
        let fused = first && fused::serves(&input.tokens.device());
        Context {
            routers_apart: input.routers_apart,
            angles: self.rope.angles(input.positions.clone()),
            visibility: match fused {
                true => visibility,
                false => {
                    visibility.with_masks(self.layers.iter().map(|layer| layer.self_attn.heads()))
                }
            },
        }
    }

    /// Builds the base model from a source of weights.
    ///
    /// `dtype` is the type in which the frozen projections are held; `positions` bounds the longest sequence.
    ///
    /// # Errors
    /// A missing weight, or one of another shape than the configuration asks for.
    pub fn load(
        config: &ModelConfig,
        weights: &mut dyn Weights,
        positions: usize,
        dtype: FloatDType,
        device: &Device,
    ) -> Result<Self, ModelError> {
        Builder {
            config,
            weights,
            dtype,
            device,
        }
        .build(positions)
    }

    /// The same base weights (shared, not copied) with a fresh adapter drawn from `seed`.
    ///
    /// # Errors
    /// Settings of the adapter out of range.
    pub fn attach(&self, adapter: &AdapterConfig, seed: u64) -> Result<Self, ModelError> {
        adapter.validate()?;
        let mut init = Initializer::new(seed, &self.embed_tokens.device());
        let mut model = self.clone();
        for layer in &mut model.layers {
            layer.attach(adapter, &mut init);
        }
        Ok(model)
    }

    /// Elements of all parameters.
    pub fn trainable_parameters(&self) -> usize {
        struct Count(usize);
        impl ModuleVisitor for Count {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                self.0 += param.shape().num_elements();
            }
        }
        let mut count = Count(0);
        self.visit(&mut count);
        count.0
    }

    /// The decoder layers.
    pub fn layers(&self) -> usize {
        self.layers.len()
    }

    /// The same model with every plain LoRA replaced by what `f` makes of it, in the order of the forward pass.
    pub fn map_lora(mut self, mut f: impl FnMut(Lora) -> Lora) -> Self {
        for layer in &mut self.layers {
            for target in TargetModule::ALL {
                let projection = layer.projection(target);
                if let Projection::Lora(lora) = projection {
                    *lora = f(lora.clone());
                }
            }
        }
        self
    }

    /// The adapter's parameters: `layers.0.self_attn.q_proj.lora_a` (`[d_in, r]`, or `[experts, d_in, r]` in a mixture), `.lora_b`
    /// (`[r, d_out]`, `[experts, r, d_out]`), `layers.0.attention_router` and `.mlp_router` (`[d, experts]`). Of a random A, `.lora_a`
    /// is the mean and `.lora_g` (`[d_in, r]`) the root of its standard deviation.
    pub fn adapter_tensors(&self) -> Tensors {
        let mut model = self.clone();
        let mut tensors = Tensors::new();
        model
            .each_parameter(|name, parameter| {
                tensors.insert(name, parameter.data());
                Ok(())
            })
            .expect("nothing refuses");
        tensors
    }

    /// The same model with other parameters in its adapter.
    ///
    /// # Errors
    /// A parameter that is missing or has another shape, or one too many.
    pub fn with_adapter_tensors(mut self, tensors: &Tensors) -> Result<Self, ModelError> {
        let mut used = 0;
        self.each_parameter(|name, parameter| {
            let data = tensors
                .get(&name)
                .ok_or_else(|| ModelError::MissingWeight {
                    name: name.clone(),
                    present: tensors.len(),
                    example: tensors.keys().next().cloned().unwrap_or_default(),
                })?;
            used += 1;
            parameter.set(&name, data)
        })?;
        match used == tensors.len() {
            true => Ok(self),
            false => Err(ModelError::setting(
                "adapter",
                format!(
                    "{} parameters have no place in this model",
                    tensors.len() - used
                ),
            )),
        }
    }

    /// Visits the adapter's parameters by their names.
    fn each_parameter(
        &mut self,
        mut visit: impl FnMut(String, Parameter) -> Result<(), ModelError>,
    ) -> Result<(), ModelError> {
        for (place, layer) in self.layers.iter_mut().enumerate() {
            for target in TargetModule::ALL {
                let name = |matrix: &str| format!("layers.{place}.{}.{matrix}", target.path());
                match layer.projection(target) {
                    Projection::Dense(_) => {}
                    Projection::Lora(lora) => {
                        visit(name("lora_a"), Parameter::Matrix(&mut lora.lora_a))?;
                        visit(name("lora_b"), Parameter::Matrix(&mut lora.lora_b))?;
                        if let Some(g) = &mut lora.lora_g {
                            visit(name("lora_g"), Parameter::Matrix(g))?;
                        }
                    }
                    Projection::MixLora(mix) => {
                        visit(name("lora_a"), Parameter::Stack(&mut mix.lora_a))?;
                        visit(name("lora_b"), Parameter::Stack(&mut mix.lora_b))?;
                    }
                }
            }
            let routers = [
                ("attention_router", &mut layer.attention_router),
                ("mlp_router", &mut layer.mlp_router),
            ];
            for (name, router) in routers {
                if let Some(router) = router {
                    let name = format!("layers.{place}.{name}");
                    visit(name, Parameter::Matrix(&mut router.weight))?;
                }
            }
        }
        Ok(())
    }

    /// Width of the vocabulary.
    pub fn vocabulary(&self) -> usize {
        self.embed_tokens.dims()[0]
    }
}

/// A parameter of the adapter.
enum Parameter<'a> {
    Matrix(&'a mut Param<Tensor<2>>),
    /// A matrix an expert.
    Stack(&'a mut Param<Tensor<3>>),
}

impl Parameter<'_> {
    fn data(&self) -> TensorData {
        match self {
            Self::Matrix(param) => param.val().into_data(),
            Self::Stack(param) => param.val().into_data(),
        }
        .convert::<f32>()
    }

    fn set(self, name: &str, data: &TensorData) -> Result<(), ModelError> {
        match self {
            Self::Matrix(param) => replace(param, name, data),
            Self::Stack(param) => replace(param, name, data),
        }
    }
}

fn replace<const D: usize>(
    param: &mut Param<Tensor<D>>,
    name: &str,
    data: &TensorData,
) -> Result<(), ModelError> {
    let (expected, found) = (param.shape(), data.shape());
    if expected.as_slice() != found.as_slice() {
        return Err(ModelError::Shape {
            name: name.into(),
            found: found.as_slice().to_vec(),
            expected: expected.as_slice().to_vec(),
        });
    }
    *param = param.clone().map(|old| {
        let device = old.device();
        Tensor::from_data(data.clone(), (&device, DType::F32))
    });
    Ok(())
}

impl DecoderLayer {
    fn attach(&mut self, adapter: &AdapterConfig, init: &mut Initializer) {
        self.attention_router = None;
        self.mlp_router = None;
        self.mlp.whole_experts = None;
        for target in TargetModule::ALL {
            let projection = self.projection(target);
            *projection = match adapter {
                AdapterConfig::Lora(lora) if lora.target_modules.contains(&target) => {
                    projection.with_lora(lora, init)
                }
                AdapterConfig::MixLora(mix) if mix.lora.target_modules.contains(&target) => {
                    attach_mixture(projection, mix, target, init)
                }
                _ => Projection::Dense(projection.base().clone()),
            };
        }
        if let AdapterConfig::MixLora(mix) = adapter {
            self.attach_routers(mix, init);
        }
    }

    fn attach_routers(&mut self, mix: &MixLoraConfig, init: &mut Initializer) {
        let width = |projection: &Projection| projection.base().sizes()[0];
        if mix.routes_attention() {
            let d = width(&self.self_attn.q_proj);
            self.attention_router = Some(Router::new(mix, d, init));
        }
        if mix.routes_feed_forward() {
            let d = width(&self.mlp.gate_proj);
            self.mlp_router = Some(Router::new(mix, d, init));
        }
        if mix.placement == Placement::Ffn {
            self.mlp.whole_experts = Some(mix.mixture_weights);
        }
    }

    fn projection(&mut self, target: TargetModule) -> &mut Projection {
        match target {
            TargetModule::QProj => &mut self.self_attn.q_proj,
            TargetModule::KProj => &mut self.self_attn.k_proj,
            TargetModule::VProj => &mut self.self_attn.v_proj,
            TargetModule::OProj => &mut self.self_attn.o_proj,
            TargetModule::GateProj => &mut self.mlp.gate_proj,
            TargetModule::UpProj => &mut self.mlp.up_proj,
            TargetModule::DownProj => &mut self.mlp.down_proj,
        }
    }
}

fn attach_mixture(
    projection: &Projection,
    mix: &MixLoraConfig,
    target: TargetModule,
    init: &mut Initializer,
) -> Projection {
    let lora: &LoraConfig = &mix.lora;
    if mix.placement == Placement::Ffn && !target.is_mlp() {
        return projection.with_lora(lora, init);
    }
    projection.with_mixture(lora, mix.num_experts, mix.mixture_weights, init)
}

/// Reads the weights by Hugging Face's names.
struct Builder<'a> {
    config: &'a ModelConfig,
    weights: &'a mut dyn Weights,
    dtype: FloatDType,
    device: &'a Device,
}

impl Builder<'_> {
    fn build(&mut self, positions: usize) -> Result<Llama, ModelError> {
        let config = self.config;
        let (d, vocabulary) = (config.hidden_size, config.vocab_size);
        let embed_tokens = self.tensor("model.embed_tokens.weight", [vocabulary, d])?;
        let layers = (0..config.num_hidden_layers)
            .map(|layer| self.layer(layer))
            .collect::<Result<_, _>>()?;
        let lm_head = match config.tie_word_embeddings {
            true => None,
            false => Some(self.tensor("lm_head.weight", [vocabulary, d])?),
        };
        Ok(Llama {
            embed_tokens,
            layers,
            norm: self.norm("model.norm.weight")?,
            lm_head,
            rope: Rope::new(
                config,
                positions.min(config.max_position_embeddings),
                self.device,
            ),
        })
    }

    fn layer(&mut self, layer: usize) -> Result<DecoderLayer, ModelError> {
        let config = self.config;
        let (d, f) = (config.hidden_size, config.intermediate_size);
        let q = config.num_attention_heads * config.head_dim;
        let kv = config.num_key_value_heads * config.head_dim;
        let (qkv_bias, output_bias, mlp_bias) =
            (config.qkv_bias, config.output_bias, config.mlp_bias);
        let at = |part: &str| format!("model.layers.{layer}.{part}");
        Ok(DecoderLayer {
            input_layernorm: self.norm(&at("input_layernorm.weight"))?,
            self_attn: SelfAttention {
                q_proj: self.projection(&at("self_attn.q_proj"), [q, d], qkv_bias)?,
                k_proj: self.projection(&at("self_attn.k_proj"), [kv, d], qkv_bias)?,
                v_proj: self.projection(&at("self_attn.v_proj"), [kv, d], qkv_bias)?,
                o_proj: self.projection(&at("self_attn.o_proj"), [d, q], output_bias)?,
                heads: config.num_attention_heads,
                key_value_heads: config.num_key_value_heads,
                window: config.sliding_window[layer],
            },
            post_attention_layernorm: self.norm(&at("post_attention_layernorm.weight"))?,
            mlp: Mlp {
                gate_proj: self.projection(&at("mlp.gate_proj"), [f, d], mlp_bias)?,
                up_proj: self.projection(&at("mlp.up_proj"), [f, d], mlp_bias)?,
                down_proj: self.projection(&at("mlp.down_proj"), [d, f], mlp_bias)?,
                whole_experts: None,
            },
            attention_router: None,
            mlp_router: None,
        })
    }

    fn projection(
        &mut self,
        name: &str,
        shape: [usize; 2],
        bias: bool,
    ) -> Result<Projection, ModelError> {
        let weight = self.tensor(&format!("{name}.weight"), shape)?;
        let bias = match bias {
            true => Some(self.tensor_of(&format!("{name}.bias"), [shape[0]], DType::F32)?),
            false => None,
        };
        Ok(Projection::Dense(Dense::new(weight, bias)))
    }

    fn norm(&mut self, name: &str) -> Result<RmsNorm, ModelError> {
        let gain = self.tensor_of(name, [self.config.hidden_size], DType::F32)?;
        Ok(RmsNorm::new(gain, self.config.rms_norm_eps))
    }

    fn tensor<const D: usize>(
        &mut self,
        name: &str,
        shape: [usize; D],
    ) -> Result<Tensor<D>, ModelError> {
        self.tensor_of(name, shape, DType::from(self.dtype))
    }

    fn tensor_of<const D: usize>(
        &mut self,
        name: &str,
        shape: [usize; D],
        dtype: DType,
    ) -> Result<Tensor<D>, ModelError> {
        let data = self.weights.tensor(name)?;
        let found: Vec<usize> = data.shape().as_slice().to_vec();
        if found != shape {
            return Err(ModelError::Shape {
                name: name.into(),
                found,
                expected: shape.to_vec(),
            });
        }
        // The type is stated at creation: a later cast would hold both copies of the largest tensors.
        Ok(Tensor::from_data(data, (self.device, dtype)))
    }
}
