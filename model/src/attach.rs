//! An adapter put on a base model.

use burn::module::{ModuleVisitor, Param};
use burn::prelude::*;

use crate::adapter::{
    AdapterConfig, Initializer, LoraConfig, MixLoraConfig, Placement, Router, Shape, TargetModule,
};
use crate::error::ModelError;
use crate::llama::{DecoderLayer, Llama};
use crate::projection::{LoraLinear, Projection};

impl Llama {
    /// The model with a fresh adapter drawn from `seed`, in place of the one it had. The base
    /// weights are shared, not copied.
    ///
    /// # Errors
    /// Settings of the adapter that are out of range or fit no projection.
    pub fn attach(&self, adapter: &AdapterConfig, seed: u64) -> Result<Self, ModelError> {
        self.attached(adapter, Initializer::new(seed, &self.embed_tokens.device()))
    }

    /// The model with an adapter whose parameters are about to be replaced: [`Self::attach`]
    /// without the work of first values.
    ///
    /// # Errors
    /// As [`Self::attach`].
    pub fn attach_blank(&self, adapter: &AdapterConfig) -> Result<Self, ModelError> {
        self.attached(adapter, Initializer::blank(&self.embed_tokens.device()))
    }

    fn attached(&self, adapter: &AdapterConfig, mut init: Initializer) -> Result<Self, ModelError> {
        adapter.check_on(self.layers.len())?;
        let mut model = self.clone();
        for (place, layer) in model.layers.iter_mut().enumerate() {
            layer.attach(adapter, place, &mut init)?;
        }
        Ok(model)
    }

    /// The number of plain LoRAs in the layers before `layer`.
    pub fn loras_before(&self, layer: usize) -> usize {
        let layers = self.layers.iter().take(layer).cloned();
        let count = |mut layer: DecoderLayer| {
            let all = TargetModule::ALL.into_iter();
            all.filter(|t| matches!(layer.projection(*t), Projection::Lora(_)))
                .count()
        };
        layers.map(count).sum()
    }

    /// The model with every plain LoRA replaced by what `f` makes of it, in the order of the
    /// forward pass.
    pub fn map_lora(mut self, mut f: impl FnMut(LoraLinear) -> LoraLinear) -> Self {
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

    /// The model with every router's running mean moved towards these mean masses, in the order of
    /// [`crate::LlamaOutput::routing`].
    pub fn with_masses(mut self, masses: &[f64]) -> Self {
        let mut masses = masses.iter();
        for layer in &mut self.layers {
            for router in [&mut layer.attention_router, &mut layer.mlp_router] {
                if let Some(old) = router.take() {
                    *router = Some(match masses.next() {
                        Some(mass) => old.with_mass(*mass),
                        None => old,
                    });
                }
            }
        }
        self
    }

    /// The number of values in all parameters, which are the adapter's, but for those with which
    /// PiSSA began.
    pub fn trainable_parameters(&self) -> usize {
        struct Count(usize);
        impl ModuleVisitor for Count {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                self.0 += param.shape().num_elements();
            }
        }
        let mut count = Count(0);
        self.visit(&mut count);
        let mut initial = 0;
        let _ = self.clone().map_lora(|lora| {
            let both = [&lora.initial_a, &lora.initial_b].into_iter().flatten();
            initial += both.map(|p| p.shape().num_elements()).sum::<usize>();
            lora
        });
        count.0 - initial
    }
}

impl DecoderLayer {
    fn attach(
        &mut self,
        adapter: &AdapterConfig,
        place: usize,
        init: &mut Initializer,
    ) -> Result<(), ModelError> {
        self.attention_router = None;
        self.mlp_router = None;
        self.mlp.whole_experts = None;
        for target in TargetModule::ALL {
            let projection = self.projection(target);
            let dense = || Ok(Projection::Dense(projection.base().clone()));
            *projection = match adapter {
                AdapterConfig::None => dense()?,
                AdapterConfig::Lora(lora) => match lora.on(place, target) {
                    Some(shape) => projection.with_lora(lora, shape, init)?,
                    None => dense()?,
                },
                AdapterConfig::MixLora(mix) => match mix.lora.on(place, target) {
                    Some(shape) => attach_mixture(projection, mix, target, shape, init)?,
                    None => dense()?,
                },
            };
        }
        if let AdapterConfig::MixLora(mix) = adapter {
            self.attach_routers(mix, init);
        }
        Ok(())
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

    /// One of the layer's seven projections.
    pub(crate) fn projection(&mut self, target: TargetModule) -> &mut Projection {
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

/// The projection with experts, or with a plain LoRA where the placement puts no experts.
fn attach_mixture(
    projection: &Projection,
    mix: &MixLoraConfig,
    target: TargetModule,
    shape: Shape,
    init: &mut Initializer,
) -> Result<Projection, ModelError> {
    let lora: &LoraConfig = &mix.lora;
    if mix.placement == Placement::Ffn && !target.is_mlp() {
        return projection.with_lora(lora, shape, init);
    }
    let (experts, weights) = (mix.num_experts, mix.mixture_weights);
    Ok(projection.with_mixture(lora.dropout, shape, experts, weights, init))
}
