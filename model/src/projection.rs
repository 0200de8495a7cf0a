//! The one seam where an adapter meets the base weights.

use burn::module::Param;
use burn::prelude::*;
use burn::tensor::DType;

use crate::adapter::dropout::{DropoutSeed, Mask, flipout, masked};
use crate::adapter::probe::Pass;
use crate::adapter::{Initializer, LoraConfig, MixtureWeights, Routing};
use crate::fused::Made;
use crate::fused::linear::linear;
use crate::fused::low_rank::{adapted_linear, add_low_rank, serves};

/// A frozen linear map.
#[derive(Module, Debug)]
pub struct Dense {
    /// `[d_out, d_in]`, as the files have it: a product with the transposed view costs no copy.
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
}

/// `W x + (alpha / r) B A drop(x)`; A may be random: `A ~ N(lora_a, G^2 * G^2)` (BLoB).
#[derive(Module, Debug)]
pub struct Lora {
    base: Dense,
    /// `[d_in, r]`
    pub lora_a: Param<Tensor<2>>,
    /// `[r, d_out]`
    pub lora_b: Param<Tensor<2>>,
    /// G, whose square is the standard deviation of A, `[d_in, r]`; absent: A is fixed.
    pub lora_g: Option<Param<Tensor<2>>>,
    #[module(skip)]
    scaling: f64,
    #[module(skip)]
    dropout: f64,
}

/// `W x + (alpha / r) sum_k w_k B_k A_k drop(x)` (Eq. 4)
#[derive(Module, Debug)]
pub struct MixLora {
    base: Dense,
    /// `[experts, d_in, r]`
    pub lora_a: Param<Tensor<3>>,
    /// `[experts, r, d_out]`
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
    /// With one low-rank update.
    Lora(Lora),
    /// With a mixture of them.
    MixLora(MixLora),
}

impl Dense {
    /// A frozen map; `weight` is `[d_out, d_in]`.
    pub fn new(weight: Tensor<2>, bias: Option<Tensor<1>>) -> Self {
        Self {
            weight,
            bias: bias.map(|b| b.cast(DType::F32)),
        }
    }

    /// `[d_in, d_out]`
    pub fn sizes(&self) -> [usize; 2] {
        let [d_out, d_in] = self.weight.dims();
        [d_in, d_out]
    }

    /// The product runs in the weights' type, everything around it in f32.
    ///
    /// # Shapes
    /// - x: `[tokens, d_in]`, output: `[tokens, d_out]`
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let (input, kind) = (x.dtype(), self.weight.dtype());
        self.with_bias(linear(x.cast(kind), self.weight.clone()).cast(input))
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

impl Lora {
    /// The same without dropout.
    pub fn without_dropout(self) -> Self {
        Self {
            dropout: 0.0,
            ..self
        }
    }

    /// `made` as in [`adapted_linear`].
    fn forward(&self, (x, made): (Tensor<2>, Made), pass: Pass) -> Tensor<2> {
        let plain = self.lora_g.is_none() && !pass.is_recorded();
        if plain && serves(&x, &self.base.weight) {
            // A mixture of one.
            let (tokens, device) = (x.dims()[0], x.device().without_autodiff());
            let index = Tensor::<2, Int>::zeros([tokens, 1], &device);
            let weights = Tensor::full([tokens, 1], self.scaling, (&device, DType::F32));
            return self.base.with_bias(adapted_linear(
                (x, made),
                self.base.weight.clone(),
                self.lora_a.val().unsqueeze(),
                self.lora_b.val().unsqueeze(),
                (index, weights),
                Mask::new(self.dropout, pass.seed),
            ));
        }
        drop(made);
        let branch = masked(x.clone(), Mask::new(self.dropout, pass.seed));
        let mut hidden = branch.clone().matmul(self.lora_a.val());
        if let Some(g) = &self.lora_g {
            hidden = flipout(hidden, branch.clone(), g.val().square(), pass.seed);
        }
        let update = pass.second_product(branch, hidden, self.lora_b.val());
        self.base.forward(x) + update * self.scaling
    }
}

impl MixLora {
    /// `made` as in [`adapted_linear`].
    fn forward(
        &self,
        (x, made): (Tensor<2>, Made),
        routing: &Routing,
        drop: DropoutSeed,
    ) -> Tensor<2> {
        if self.mixture_weights != MixtureWeights::Raw && serves(&x, &self.base.weight) {
            return self.base.with_bias(adapted_linear(
                (x, made),
                self.base.weight.clone(),
                self.lora_a.val(),
                self.lora_b.val(),
                (
                    routing.experts.clone(),
                    routing.weights.clone() * self.scaling,
                ),
                Mask::new(self.dropout, drop),
            ));
        }
        let base = self.base.forward(x.clone());
        let base = match self.mixture_weights {
            MixtureWeights::Raw => base * routing.mass(),
            _ => base,
        };
        let (experts, weights) = (routing.experts.clone(), routing.weights.clone());
        self.updated(base, x, experts, weights, drop)
    }

    /// `base + (alpha / r) sum_k weights_k B_k A_k drop(x)`
    pub(crate) fn updated(
        &self,
        base: Tensor<2>,
        x: Tensor<2>,
        experts: Tensor<2, Int>,
        weights: Tensor<2>,
        drop: DropoutSeed,
    ) -> Tensor<2> {
        add_low_rank(
            base,
            x,
            self.lora_a.val(),
            self.lora_b.val(),
            (experts, weights * self.scaling),
            Mask::new(self.dropout, drop),
        )
    }
}

impl Projection {
    /// Applies the projection; `routing` is the decision of the router that serves this input, `made` as in [`adapted_linear`].
    ///
    /// # Shapes
    /// - x: `[tokens, d_in]`, output: `[tokens, d_out]`
    ///
    /// # Panics
    /// If a mixture is called without a routing: `Llama::attach` always builds them together.
    pub(crate) fn forward(
        &self,
        (x, made): (Tensor<2>, Made),
        routing: Option<&Routing>,
        pass: Pass,
    ) -> Tensor<2> {
        match self {
            Self::Dense(dense) => {
                // Nobody else may hold what x was made from.
                drop(made);
                dense.forward(x)
            }
            Self::Lora(lora) => lora.forward((x, made), pass),
            Self::MixLora(mix) => {
                let routing = routing.expect("a layer with a mixture has a router");
                mix.forward((x, made), routing, pass.seed)
            }
        }
    }

    /// The frozen part.
    pub fn base(&self) -> &Dense {
        match self {
            Self::Dense(dense) => dense,
            Self::Lora(lora) => &lora.base,
            Self::MixLora(mix) => &mix.base,
        }
    }

    /// The mixture, if it is one.
    pub(crate) fn mixture(&self) -> Option<&MixLora> {
        match self {
            Self::MixLora(mix) => Some(mix),
            _ => None,
        }
    }

    /// The same base with a fresh LoRA.
    pub(crate) fn with_lora(&self, config: &LoraConfig, init: &mut Initializer) -> Self {
        let base = self.base().clone();
        let [d_in, d_out] = base.sizes();
        Self::Lora(Lora {
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

    /// The same base with fresh experts.
    pub(crate) fn with_mixture(
        &self,
        config: &LoraConfig,
        experts: usize,
        mixture_weights: MixtureWeights,
        init: &mut Initializer,
    ) -> Self {
        let base = self.base().clone();
        let [d_in, d_out] = base.sizes();
        Self::MixLora(MixLora {
            lora_a: init.lora_a([experts, d_in, config.rank], d_in),
            lora_b: init.lora_b([experts, config.rank, d_out]),
            scaling: config.scaling(),
            dropout: config.dropout,
            mixture_weights,
            base,
        })
    }
}
