//! A small LLaMA with a mixture of LoRA experts, and the decisions of its routers.
//!
//! `cargo build --workspace --examples`, then `target/debug/examples/mixture`.

use burn::tensor::{Device, FloatDType, Int, Tensor};
use model::load::tiny::{self, RandomWeights};
use model::{
    AdapterConfig, DropoutSeed, Llama, LlamaInput, LoraConfig, MixLoraConfig, MixtureWeights,
    ModelError, Placement, TargetModule,
};

fn main() -> Result<(), ModelError> {
    let device = Device::flex();
    let shape = tiny::config(300);
    let mut weights = RandomWeights::new(shape.clone(), 0);
    let base = Llama::load(&shape, &mut weights, 64, FloatDType::F32, &device)?;
    let adapter = AdapterConfig::MixLora(MixLoraConfig {
        lora: LoraConfig {
            rank: 4,
            alpha: 8.0,
            dropout: 0.05,
            target_modules: TargetModule::ALL.into(),
            ..LoraConfig::default()
        },
        num_experts: 8,
        top_k: 2,
        placement: Placement::All,
        mixture_weights: MixtureWeights::Renormalized,
        router_init_std: 0.02,
    });
    let tuned = base.attach(&adapter, 42)?;
    println!(
        "{} trained parameters beside {} frozen ones",
        tuned.trainable_parameters(),
        shape.base_parameters()
    );

    let tokens = Tensor::<2, Int>::from_data([[5, 17, 42, 7, 99, 3]], &device);
    let output = tuned.forward(&LlamaInput {
        positions: Tensor::<1, Int>::arange(0..6, &device).unsqueeze(),
        segments: Tensor::ones([1, 6], &device),
        branches: Tensor::zeros([1, 6], &device),
        // The last token is where an answer would be read.
        scored: Tensor::from_data([5], &device),
        tokens,
        dropout: DropoutSeed::OFF,
        probe: None,
        routers_apart: false,
    });
    println!("logits {:?}", output.logits.dims());
    for (router, routing) in output.routing.iter().enumerate() {
        // Eq. 11: the raw probability of the chosen experts; its mean is FLU, high = certain.
        let mass = routing.mass().mean().into_scalar::<f32>();
        println!("router {router}: mean mass of the chosen experts {mass:.3}");
    }
    Ok(())
}
