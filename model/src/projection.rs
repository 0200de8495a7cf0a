//! Projections: the one place where an adapter meets the base weights.

use burn::module::Param;
use burn::prelude::*;
use burn::tensor::DType;

use crate::adapter::probe::Pass;
use crate::adapter::{Initializer, LoraConfig, MixtureWeights, Routing, Shape};
use crate::dropout::{flipout, masked};
use crate::error::ModelError;
use crate::fused::activation::Activation;
use crate::fused::adapted_linear::{adapted_linear, serves};
use crate::fused::keeps_less;
use crate::fused::linear::in_its_type;
use crate::fused::low_rank::{Mixture, add_low_rank};

/// A frozen linear map, with a bias where the model has one.
#[derive(Module, Debug)]
pub struct Dense {
    /// `[d_out, d_in]`, as the files have it: a product with the transposed view costs no copy.
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
}

/// A projection with a LoRA: `W x + s B A drop(x)`, s the scaling.
///
/// - A may be random: `A ~ N(lora_a, G^2 * G^2)` (BLoB).
/// - A and B may begin at singular vectors of W, which are taken out of it, s B_0 A_0 (PiSSA).
/// - Each output may have a magnitude (DoRA): `(m / |V|) V x` with `V = W + s B A` and the norm of
///   each of its rows, through which no gradient passes.
#[derive(Module, Debug)]
pub struct LoraLinear {
    base: Dense,
    /// A, or its mean where A is random, `[d_in, r]`.
    pub lora_a: Param<Tensor<2>>,
    /// B, `[r, d_out]`.
    pub lora_b: Param<Tensor<2>>,
    /// G, whose square is the standard deviation of A, `[d_in, r]`; `None`: A is fixed.
    pub lora_g: Option<Param<Tensor<2>>>,
    /// The magnitude of each output, `[d_out]`; `None`: that of the sum.
    pub magnitude: Option<Param<Tensor<1>>>,
    /// A as it began, whose update is taken out of W, `[d_in, r]`; `None`: W is whole. Never
    /// trained.
    pub initial_a: Option<Param<Tensor<2>>>,
    /// B as it began, `[r, d_out]`.
    pub initial_b: Option<Param<Tensor<2>>>,
    #[module(skip)]
    scaling: f64,
    #[module(skip)]
    dropout: f64,
}

/// A projection with a mixture of LoRAs: `W x + (alpha / r) sum_k w_k B_k A_k drop(x)` (Eq. 4).
#[derive(Module, Debug)]
pub struct MixLoraLinear {
    base: Dense,
    /// A of each expert, `[experts, d_in, r]`.
    pub lora_a: Param<Tensor<3>>,
    /// B of each expert, `[experts, r, d_out]`.
    pub lora_b: Param<Tensor<3>>,
    #[module(skip)]
    scaling: f64,
    #[module(skip)]
    dropout: f64,
    #[module(skip)]
    mixture_weights: MixtureWeights,
}

/// A projection of a decoder layer, adapted or not.
#[expect(
    clippy::large_enum_variant,
    reason = "a model has seven a layer, and its tensors lie elsewhere"
)]
#[derive(Module, Debug)]
pub enum Projection {
    /// The frozen weights alone.
    Dense(Dense),
    /// The frozen weights with one low-rank update.
    Lora(LoraLinear),
    /// The frozen weights with a mixture of low-rank updates.
    MixLora(MixLoraLinear),
}

impl Dense {
    /// A frozen map with a weight `[d_out, d_in]` and, if there is one, a bias `[d_out]`.
    pub fn new(weight: Tensor<2>, bias: Option<Tensor<1>>) -> Self {
        Self {
            weight,
            bias: bias.map(|b| b.cast(DType::F32)),
        }
    }

    /// Width of the input and of the output, `[d_in, d_out]`.
    pub fn sizes(&self) -> [usize; 2] {
        let [d_out, d_in] = self.weight.dims();
        [d_in, d_out]
    }

    /// The type in which activations like x are kept for the backward pass: the weights' own,
    /// which products take them in anyway, where operations are lean.
    pub(crate) fn kept_type(&self, x: &Tensor<2>) -> DType {
        match keeps_less(x) {
            true => self.weight.dtype(),
            false => x.dtype(),
        }
    }

    /// Applies the map. The product runs in the weights' type, everything around it in f32.
    ///
    /// # Shapes
    /// - x: `[tokens, d_in]`, output: `[tokens, d_out]`
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.with_bias(self.product(x))
    }

    /// The product without the bias.
    fn product(&self, x: Tensor<2>) -> Tensor<2> {
        in_its_type(x, self.weight.clone())
    }

    fn with_bias(&self, y: Tensor<2>) -> Tensor<2> {
        match &self.bias {
            Some(bias) => {
                let kind = y.dtype();
                y + bias.clone().cast(kind).unsqueeze()
            }
            None => y,
        }
    }
}

impl LoraLinear {
    /// The same projection without dropout.
    pub fn without_dropout(self) -> Self {
        Self {
            dropout: 0.0,
            ..self
        }
    }

    fn forward(&self, x: Activation, pass: Pass) -> Tensor<2> {
        let y = match &self.magnitude {
            None => self.sum(x, pass),
            Some(magnitude) => {
                let gain = (magnitude.val() / self.norms()).unsqueeze();
                match pass.mask(self.dropout) {
                    None => self.sum(x, pass) * gain,
                    // As in peft, dropout acts on all that the magnitude changes.
                    Some(mask) => {
                        let x = x.into_value();
                        let dropped = masked(x.clone(), Some(mask));
                        let frozen = self.frozen(dropped.clone());
                        let sum = frozen.clone() + self.update(dropped, pass);
                        self.frozen(x) - frozen + sum * gain
                    }
                }
            }
        };
        self.base.with_bias(y)
    }

    /// What is frozen and the update, without magnitudes and the bias.
    fn sum(&self, x: Activation, pass: Pass) -> Tensor<2> {
        let plain = self.lora_g.is_none() && !pass.is_recorded();
        if !(plain && serves(&x.value, &self.base.weight)) {
            let x = x.into_value();
            let branch = masked(x.clone(), pass.mask(self.dropout));
            return self.frozen(x) + self.update(branch, pass);
        }
        let taken = self.taken(&x.value);
        let mixture = self.mixture_of_one(&x.value, pass);
        let sum = adapted_linear(x, self.base.weight.clone(), mixture);
        match taken {
            Some(taken) => sum - taken,
            None => sum,
        }
    }

    /// What is frozen, without the bias: W, less what PiSSA took out.
    fn frozen(&self, x: Tensor<2>) -> Tensor<2> {
        match self.taken(&x) {
            Some(taken) => self.base.product(x) - taken,
            None => self.base.product(x),
        }
    }

    /// `s B_0 A_0 x`, where PiSSA took it out of W.
    fn taken(&self, x: &Tensor<2>) -> Option<Tensor<2>> {
        let (a, b) = (self.initial_a.as_ref()?, self.initial_b.as_ref()?);
        let x = x.clone().cast(DType::F32);
        Some(x.matmul(a.val()).matmul(b.val()) * self.scaling)
    }

    /// `s B A x`, x after dropout.
    fn update(&self, x: Tensor<2>, pass: Pass) -> Tensor<2> {
        let mut hidden = x.clone().matmul(self.lora_a.val());
        if let Some(g) = &self.lora_g {
            hidden = flipout(hidden, x.clone(), g.val().square(), pass.seed, pass.keys);
        }
        pass.second_product(x, hidden, self.lora_b.val()) * self.scaling
    }

    /// The norm of each output's weights, `[d_out]`, without a graph.
    fn norms(&self) -> Tensor<1> {
        let product = |a: &Param<Tensor<2>>, b: &Param<Tensor<2>>| {
            let (a, b) = (a.val().without_autodiff(), b.val().without_autodiff());
            (a.matmul(b) * self.scaling).transpose()
        };
        let weight = self.base.weight.clone().without_autodiff();
        let mut sum = weight.cast(DType::F32) + product(&self.lora_a, &self.lora_b);
        if let (Some(a), Some(b)) = (&self.initial_a, &self.initial_b) {
            sum = sum - product(a, b);
        }
        let norms = sum.square().sum_dim(1).sqrt().squeeze_dim(1);
        // Of weights that are all zero, whatever they are divided by.
        norms.clamp_min(1e-30)
    }

    /// The update as a mixture whose one expert serves every row of x.
    fn mixture_of_one(&self, x: &Tensor<2>, pass: Pass) -> Mixture {
        let (tokens, device) = (x.dims()[0], x.device().without_autodiff());
        Mixture {
            a: self.lora_a.val().unsqueeze(),
            b: self.lora_b.val().unsqueeze(),
            experts: Tensor::zeros([tokens, 1], &device),
            weights: Tensor::full([tokens, 1], self.scaling, (&device, DType::F32)),
            dropout: pass.mask(self.dropout),
        }
    }
}

impl MixLoraLinear {
    fn forward(&self, x: Activation, routing: &Routing, pass: Pass) -> Tensor<2> {
        let (experts, weights) = (routing.experts.clone(), routing.weights.clone());
        if self.mixture_weights == MixtureWeights::Raw {
            // The raw probabilities weigh the frozen output, too.
            let x = x.into_value();
            let base = self.base.forward(x.clone()) * routing.mass();
            return self.updated(base, x, experts, weights, pass);
        }
        let mixture = self.mixture(experts, weights, pass);
        let weight = self.base.weight.clone();
        self.base.with_bias(adapted_linear(x, weight, mixture))
    }

    /// `base + (alpha / r) sum_k weights_k B_k A_k drop(x)`, over the given experts of each row.
    pub(crate) fn updated(
        &self,
        base: Tensor<2>,
        x: Tensor<2>,
        experts: Tensor<2, Int>,
        weights: Tensor<2>,
        pass: Pass,
    ) -> Tensor<2> {
        add_low_rank(base, x, self.mixture(experts, weights, pass))
    }

    fn mixture(&self, experts: Tensor<2, Int>, weights: Tensor<2>, pass: Pass) -> Mixture {
        Mixture {
            a: self.lora_a.val(),
            b: self.lora_b.val(),
            experts,
            weights: weights * self.scaling,
            dropout: pass.mask(self.dropout),
        }
    }
}

impl Projection {
    /// Applies the projection. `routing` is the decision of the router that serves this input.
    ///
    /// # Shapes
    /// - x: `[tokens, d_in]`, output: `[tokens, d_out]`
    ///
    /// # Panics
    /// If a mixture is called without a routing. `Llama::attach` always builds both together.
    pub(crate) fn forward(
        &self,
        x: Activation,
        routing: Option<&Routing>,
        pass: Pass,
    ) -> Tensor<2> {
        match self {
            // What x was computed from is dropped first: nobody may hold it any longer.
            Self::Dense(dense) => dense.forward(x.into_value()),
            Self::Lora(lora) => lora.forward(x, pass),
            Self::MixLora(mix) => {
                let routing = routing.expect("a layer with a mixture has a router");
                mix.forward(x, routing, pass)
            }
        }
    }

    /// The frozen part of the projection.
    pub fn base(&self) -> &Dense {
        match self {
            Self::Dense(dense) => dense,
            Self::Lora(lora) => &lora.base,
            Self::MixLora(mix) => &mix.base,
        }
    }

    /// The projection as a mixture, if it is one.
    pub(crate) fn mixture(&self) -> Option<&MixLoraLinear> {
        match self {
            Self::MixLora(mix) => Some(mix),
            _ => None,
        }
    }

    /// The same frozen part with a fresh LoRA.
    ///
    /// # Errors
    /// A frozen matrix without as many singular vectors as PiSSA takes.
    pub(crate) fn with_lora(
        &self,
        config: &LoraConfig,
        shape: Shape,
        init: &mut Initializer,
    ) -> Result<Self, ModelError> {
        let base = self.base().clone();
        let [d_in, d_out] = base.sizes();
        let start = config.init_lora_weights;
        let ([lora_a, lora_b], initial) = if start.is_pissa() {
            let [a, b, initial_a, initial_b] = init.pissa(base.weight.clone(), shape, start)?;
            ([a, b], Some((initial_a, initial_b)))
        } else {
            let a = init.lora_a([d_in, shape.rank], d_in);
            ([a, init.lora_b([shape.rank, d_out])], None)
        };
        let (initial_a, initial_b) = initial.unzip();
        let weight = || base.weight.clone();
        Ok(Self::Lora(LoraLinear {
            lora_a,
            lora_b,
            lora_g: config
                .posterior_std
                .map(|std| init.posterior_g([d_in, shape.rank], std)),
            magnitude: config.use_dora.then(|| init.magnitudes(weight())),
            initial_a,
            initial_b,
            scaling: shape.scaling,
            dropout: config.dropout,
            base,
        }))
    }

    /// The same frozen part with a mixture of fresh experts.
    pub(crate) fn with_mixture(
        &self,
        dropout: f64,
        shape: Shape,
        experts: usize,
        mixture_weights: MixtureWeights,
        init: &mut Initializer,
    ) -> Self {
        let base = self.base().clone();
        let [d_in, d_out] = base.sizes();
        Self::MixLora(MixLoraLinear {
            lora_a: init.lora_a([experts, d_in, shape.rank], d_in),
            lora_b: init.lora_b([experts, shape.rank, d_out]),
            scaling: shape.scaling,
            dropout,
            mixture_weights,
            base,
        })
    }
}
