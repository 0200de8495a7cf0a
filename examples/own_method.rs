//! A method of one's own, outside of the crate: LoRA whose logits are halved. Inside of it, a file
//! and a line make it known to `--method`, see CONTRIBUTING.md.
//!
//!     cargo run --example own_method

use std::error::Error;
use std::sync::Arc;

use burn::data::dataloader::batcher::Batcher;
use burn::tensor::Device;
use data::source::Finder;
use data::{Batch, MultipleChoice, QuestionBatcher};
use model::Llama;
use train::config::ConfigLayers;
use train::method::{FitContext, Method, Predictor, Training};
use train::prediction::{Prediction, ScoredRow};
use train::prepare::prepare_model;
use train::{TrainError, registry};

/// Another method whose logits are halved.
#[derive(Debug)]
struct Halved(Arc<dyn Method>);

impl Method for Halved {
    fn name(&self) -> &'static str {
        "halved"
    }

    fn training(&self) -> &dyn Training {
        self.0.training()
    }

    fn fit(
        &self,
        members: Vec<Llama>,
        context: &FitContext,
    ) -> Result<Box<dyn Predictor>, TrainError> {
        Ok(Box::new(HalvedPredictor(self.0.fit(members, context)?)))
    }
}

struct HalvedPredictor(Box<dyn Predictor>);

impl Predictor for HalvedPredictor {
    fn predict(&self, batch: &Batch) -> Prediction {
        let mut prediction = self.0.predict(batch);
        prediction.choice_logits = prediction.choice_logits / 2.0;
        prediction
    }

    fn forward_passes(&self) -> usize {
        self.0.forward_passes()
    }
}

/// What LoRA says of a question, and what the method of our own does.
pub(crate) fn asked() -> Result<[ScoredRow; 2], Box<dyn Error>> {
    let mut layers = ConfigLayers::default();
    layers.method("lora")?;
    layers.set_text("model.name", "tiny")?;
    let config = layers.resolve()?;
    let device = Device::flex();
    let mut prepared = prepare_model(&config, &Finder::from_env())?;
    let choices = vec!["true".into(), "false".into()];
    let question = MultipleChoice::new("Is the sky blue?", choices, 0);
    let encoded = prepared.encode(&[question])?;
    let lora = registry::build(&config)?;
    // Room for the longest prompt. The adapter stays as it was drawn here; `Trainee` trains one.
    let base = prepared.load_for(&config, prepared.prompt_tokens(), &device)?;
    let member = base.attach(&lora.adapter(), config.train.seed)?;
    let batch = QuestionBatcher::default().batch(encoded, &device);
    let context = FitContext::without_questions(&device);
    let row = |method: &dyn Method| -> Result<ScoredRow, Box<dyn Error>> {
        let predictor = method.fit(vec![member.clone()], &context)?;
        Ok(predictor.predict(&batch).rows(&batch)?.swap_remove(0))
    };
    Ok([row(&*lora)?, row(&Halved(lora.clone()))?])
}

#[allow(dead_code)]
fn main() -> Result<(), Box<dyn Error>> {
    let [plain, halved] = asked()?;
    println!(
        "{:.3} becomes {:.3}",
        plain.confidence(),
        halved.confidence()
    );
    Ok(())
}
