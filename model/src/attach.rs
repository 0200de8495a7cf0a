//! An adapter put on a base model.

use burn::module::{ModuleVisitor, Param};
use burn::prelude::*;

use crate::adapter::{
    AdapterConfig, Initializer, LoraConfig, MixLoraConfig, Placement, Router, TargetModule,
};
use crate::error::ModelError;
use crate::llama::{DecoderLayer, Llama};
use crate::projection::{LoraLinear, Projection};

impl Llama {
    /// The model with a fresh adapter drawn from `seed`, in place of the one it had. The base
    /// weights are shared, not copied.
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

    /// The number of values in all parameters, which are the adapter's.
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
    init: &mut Initializer,
) -> Projection {
    let lora: &LoraConfig = &mix.lora;
    if mix.placement == Placement::Ffn && !target.is_mlp() {
        return projection.with_lora(lora, init);
    }
    projection.with_mixture(lora, mix.num_experts, mix.mixture_weights, init)
}
