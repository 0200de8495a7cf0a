//! Projections: the one place where an adapter meets the base weights.

use burn::module::Param;
use burn::prelude::*;
use burn::tensor::DType;

use crate::adapter::probe::Pass;
use crate::adapter::{Initializer, LoraConfig, MixtureWeights, Routing};
use crate::dropout::{DropoutSeed, Mask, flipout, masked};
use crate::fused::activation::Activation;
use crate::fused::adapted_linear::{adapted_linear, serves};
use crate::fused::linear::in_its_type;
use crate::fused::low_rank::{Mixture, add_low_rank};

/// A frozen linear map, with a bias where the model has one.
#[derive(Module, Debug)]
pub struct Dense {
    /// `[d_out, d_in]`, as the files have it: a product with the transposed view costs no copy.
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
}

/// A projection with a LoRA: `W x + (alpha / r) B A drop(x)`. A may be random:
/// `A ~ N(lora_a, G^2 * G^2)` (BLoB).
#[derive(Module, Debug)]
pub struct LoraLinear {
    base: Dense,
    /// A, or its mean where A is random, `[d_in, r]`.
    pub lora_a: Param<Tensor<2>>,
    /// B, `[r, d_out]`.
    pub lora_b: Param<Tensor<2>>,
    /// G, whose square is the standard deviation of A, `[d_in, r]`; `None`: A is fixed.
    pub lora_g: Option<Param<Tensor<2>>>,
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

    /// Applies the map. The product runs in the weights' type, everything around it in f32.
    ///
    /// # Shapes
    /// - x: `[tokens, d_in]`, output: `[tokens, d_out]`
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.with_bias(in_its_type(x, self.weight.clone()))
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
        let plain = self.lora_g.is_none() && !pass.is_recorded();
        if plain && serves(&x.value, &self.base.weight) {
            let weight = self.base.weight.clone();
            let mixture = self.mixture_of_one(&x.value, pass.seed);
            return self.base.with_bias(adapted_linear(x, weight, mixture));
        }
        let x = x.into_value();
        let branch = masked(x.clone(), Mask::new(self.dropout, pass.seed));
        let mut hidden = branch.clone().matmul(self.lora_a.val());
        if let Some(g) = &self.lora_g {
            hidden = flipout(hidden, branch.clone(), g.val().square(), pass.seed);
        }
        let update = pass.second_product(branch, hidden, self.lora_b.val());
        self.base.forward(x) + update * self.scaling
    }

    /// The update as a mixture whose one expert serves every row of x.
    fn mixture_of_one(&self, x: &Tensor<2>, seed: DropoutSeed) -> Mixture {
        let (tokens, device) = (x.dims()[0], x.device().without_autodiff());
        Mixture {
            a: self.lora_a.val().unsqueeze(),
            b: self.lora_b.val().unsqueeze(),
            experts: Tensor::zeros([tokens, 1], &device),
            weights: Tensor::full([tokens, 1], self.scaling, (&device, DType::F32)),
            dropout: Mask::new(self.dropout, seed),
        }
    }
}

impl MixLoraLinear {
    fn forward(&self, x: Activation, routing: &Routing, seed: DropoutSeed) -> Tensor<2> {
        let (experts, weights) = (routing.experts.clone(), routing.weights.clone());
        if self.mixture_weights == MixtureWeights::Raw {
            // The raw probabilities weigh the frozen output, too.
            let base = self.base.forward(x.value.clone()) * routing.mass();
            return self.updated(base, x.value, experts, weights, seed);
        }
        let mixture = self.mixture(experts, weights, seed);
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
        seed: DropoutSeed,
    ) -> Tensor<2> {
        add_low_rank(base, x, self.mixture(experts, weights, seed))
    }

    fn mixture(&self, experts: Tensor<2, Int>, weights: Tensor<2>, seed: DropoutSeed) -> Mixture {
        Mixture {
            a: self.lora_a.val(),
            b: self.lora_b.val(),
            experts,
            weights: weights * self.scaling,
            dropout: Mask::new(self.dropout, seed),
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
                mix.forward(x, routing, pass.seed)
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
    pub(crate) fn with_lora(&self, config: &LoraConfig, init: &mut Initializer) -> Self {
        let base = self.base().clone();
        let [d_in, d_out] = base.sizes();
        Self::Lora(LoraLinear {
            lora_a: init.lora_a([d_in, config.rank], d_in),
            lora_b: init.lora_b([config.rank, d_out]),
            lora_g: config
                .posterior_std
                .map(|std| init.posterior_g([d_in, config.rank], std)),
            scaling: config.scaling(),
            dropout: config.dropout,
            base,
        })
    }

    /// The same frozen part with a mixture of fresh experts.
    pub(crate) fn with_mixture(
        &self,
        config: &LoraConfig,
        experts: usize,
        mixture_weights: MixtureWeights,
        init: &mut Initializer,
    ) -> Self {
        let base = self.base().clone();
        let [d_in, d_out] = base.sizes();
        Self::MixLora(MixLoraLinear {
            lora_a: init.lora_a([experts, d_in, config.rank], d_in),
            lora_b: init.lora_b([experts, config.rank, d_out]),
            scaling: config.scaling(),
            dropout: config.dropout,
            mixture_weights,
            base,
        })
    }
}
