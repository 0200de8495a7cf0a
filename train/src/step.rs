//! Burn's `TrainStep` and `InferenceStep` around a method's objective.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use burn::lr_scheduler::module_lr_scheduler::ModuleLearningRate;
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::prelude::*;
use burn::tensor::ExecutionError;
use burn::train::metric::Adaptor;
use burn::train::{InferenceStep, ItemLazy, TrainOutput, TrainStep};
use data::{Batch, StepPart};
use model::{DropoutSeed, Llama, LlamaInput, LlamaOutput, MixtureWeights, Routing};

use crate::config::{OnNan, TrainSection};
use crate::forward::{Reading, input};
use crate::gradient::{self, Norms};
use crate::linear_algebra::{values, weighted_sums};
use crate::loss::{Objective, load_balancing};
use crate::method::Method;
use crate::prediction::{Prediction, ScoredRow};
use crate::recompute;

/// A model with the method that trains it.
#[derive(Module, Debug)]
pub struct Trainee {
    /// The base model with its adapter.
    pub llama: Llama,
    #[module(skip)]
    method: MethodHandle,
    /// Largest allowed norm of the whole gradient; none = no clipping.
    #[module(skip)]
    gradient_clip: Option<f64>,
    /// Run each layer again in the backward pass instead of keeping its activations.
    #[module(skip)]
    recompute: bool,
    /// Training questions.
    #[module(skip)]
    questions: usize,
    /// The optimizer step under way; clones share it, for `optimize` is not told.
    #[module(skip)]
    at: StepCounter,
    /// The routers' mean masses in the optimizer step under way.
    #[module(skip)]
    masses: Masses,
    /// Norms of the whole gradient on their way to the metrics.
    #[module(skip)]
    norms: Norms,
    /// Leave out an optimizer step whose gradient is no number.
    #[module(skip)]
    skips: bool,
}

/// An optimizer step's number; the module machinery wants `Clone` and `Debug`.
#[derive(Debug, Clone, Default)]
struct StepCounter(Arc<AtomicUsize>);

/// The mean mass of every router in each micro-batch, `[routers]`, still on the device, with the
/// micro-batch's share of the step; clones share them, as they do the step's number.
#[derive(Debug, Clone, Default)]
struct Masses(Arc<Mutex<Vec<(f64, Tensor<1>)>>>);

impl Masses {
    /// Adds a micro-batch of this share of the step. Waits for no device.
    fn add(&self, reading: &Reading, batch: &Batch, share: f64) {
        let mean = |routing: &Routing| {
            let mass = routing.mass().without_autodiff().squeeze_dim(1);
            weighted_sums(&batch.means.tokens, mass).without_autodiff()
        };
        let means: Vec<Tensor<1>> = reading.routing.iter().map(mean).collect();
        if !means.is_empty() {
            self.all().push((share, Tensor::cat(means, 0)));
        }
    }

    /// Takes out the means of the whole step. Waits for the device, once, where there are any.
    fn take(&self) -> Vec<f64> {
        let parts = self.drain();
        let Some((_, first)) = parts.first() else {
            return Vec::new();
        };
        // Devices that share a step have each left theirs.
        let (device, mut sums) = (first.device(), vec![0.0; first.dims()[0]]);
        let (shares, means): (Vec<f64>, Vec<Tensor<1>>) = parts
            .into_iter()
            .map(|(share, means)| (share, means.to_device(&device)))
            .unzip();
        let means = values(Tensor::cat(means, 0));
        for (share, means) in shares.iter().zip(means.chunks(sums.len())) {
            for (sum, mean) in sums.iter_mut().zip(means) {
                *sum += share * mean;
            }
        }
        sums
    }

    /// Takes out what was added, unread.
    fn drain(&self) -> Vec<(f64, Tensor<1>)> {
        std::mem::take(&mut *self.all())
    }

    fn all(&self) -> MutexGuard<'_, Vec<(f64, Tensor<1>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A shared method; the module machinery wants `Clone` and `Debug`.
#[derive(Debug, Clone)]
struct MethodHandle(Arc<dyn Method>);

/// What one step tells the metrics; all tensors are small and carry no graph after `sync`.
#[derive(Debug, Clone)]
pub struct StepOutput {
    prediction: Prediction,
    terms: Vec<(&'static str, f64, Tensor<1>)>,
    /// `[routers, experts]`
    expert_load: Option<Tensor<2>>,
    batch: Batch,
    norms: Norms,
    /// Read once, on the metrics' thread, however many metrics ask.
    facts: Arc<OnceLock<StepFacts>>,
}

/// A step's numbers on the host.
#[derive(Debug, Clone, Default)]
pub struct StepFacts {
    /// Scored questions.
    pub rows: Vec<ScoredRow>,
    /// Name, weight and unweighted value of each loss term.
    pub terms: Vec<(&'static str, f64, f64)>,
    /// Share of kept tokens by router and expert.
    pub expert_load: Vec<Vec<f64>>,
    /// Optimizer step, from 1; 0 outside training.
    pub step: usize,
    /// Share of the optimizer step that this is.
    pub share: f64,
    /// Tokens that are not padding.
    pub real_tokens: usize,
    /// Tokens computed.
    pub computed_tokens: usize,
    /// Norm of the optimizer step's whole gradient before it was clipped; known with the step's
    /// last part.
    pub gradient_norm: Option<f64>,
    /// Names of the questions, where the loss over them is no number.
    pub suspects: Vec<String>,
}

impl StepFacts {
    /// The weighted sum of the terms.
    pub fn loss(&self) -> f64 {
        self.terms.iter().map(|(_, w, v)| w * v).sum()
    }
}

impl Trainee {
    /// Puts model and method together.
    pub fn new(
        llama: Llama,
        method: Arc<dyn Method>,
        train: &TrainSection,
        questions: usize,
    ) -> Self {
        Self {
            llama,
            method: MethodHandle(method),
            gradient_clip: train.gradient_clip,
            recompute: train.recompute,
            questions,
            at: StepCounter::default(),
            masses: Masses::default(),
            norms: Norms::default(),
            skips: train.on_nan == OnNan::Skip,
        }
    }

    /// What a forward pass over a batch says, and the objective on it.
    pub fn objective(&self, batch: &Batch, dropout: DropoutSeed) -> (Reading, Objective) {
        let output = self.llama.forward(&self.input(batch, dropout));
        self.judge(output, batch)
    }

    fn judge(&self, output: LlamaOutput, batch: &Batch) -> (Reading, Objective) {
        let reading = self.method.0.read(output, batch);
        let mut objective = self.method.0.objective(&reading, batch);
        let watched = self.method.0.training().watched(&self.llama);
        objective.terms.extend(watched);
        (reading, objective)
    }

    /// Keeps what the routers' running means are moved by, where they have them.
    fn observe(&self, reading: &Reading, batch: &Batch, share: f64) {
        let adapter = self.method.0.adapter();
        let weights = adapter.mixture().map(|mix| mix.mixture_weights);
        if weights == Some(MixtureWeights::NormalizedDelta) {
            self.masses.add(reading, batch, share);
        }
    }

    fn input(&self, batch: &Batch, dropout: DropoutSeed) -> LlamaInput {
        LlamaInput {
            routers_apart: self.method.0.training().routers_apart(),
            ..input(batch, dropout)
        }
    }

    fn step_recomputing(&self, batch: Batch, part: StepPart) -> TrainOutput<StepOutput> {
        let input = self.input(&batch, DropoutSeed::new(part.seed));
        let found = recompute::gradients(&self.llama, &input, |output| {
            let (reading, objective) = self.judge(output, &batch);
            let loss = objective.total() * part.share;
            (loss, (reading.detached(), objective))
        });
        let (reading, objective) = found.facts;
        self.observe(&reading, &batch, part.share);
        TrainOutput {
            grads: found.gradients,
            item: report(reading, &objective, batch, &self.norms),
        }
    }
}

/// What a step tells the metrics.
fn report(reading: Reading, objective: &Objective, batch: Batch, norms: &Norms) -> StepOutput {
    let reading = reading.detached();
    let routed = !reading.routing.is_empty();
    let plain = |t: &Tensor<1>| t.clone().without_autodiff();
    StepOutput {
        prediction: Prediction::of(&reading, &batch),
        terms: objective
            .terms
            .iter()
            .map(|term| (term.name, term.weight, plain(&term.value)))
            .collect(),
        expert_load: routed.then(|| {
            load_balancing::expert_load(&reading.routing, &batch.means.tokens).without_autodiff()
        }),
        batch,
        norms: norms.clone(),
        facts: Arc::default(),
    }
}

impl TrainStep for Trainee {
    type Input = Batch;
    type Output = StepOutput;

    fn step(&self, mut batch: Batch) -> TrainOutput<StepOutput> {
        let part = *batch.training.get_or_insert_default();
        self.at.0.store(part.step, Ordering::SeqCst);
        if self.recompute {
            return self.step_recomputing(batch, part);
        }
        let (reading, objective) = self.objective(&batch, DropoutSeed::new(part.seed));
        let loss = objective.total() * part.share;
        self.observe(&reading, &batch, part.share);
        let report = report(reading, &objective, batch, &self.norms);
        TrainOutput::new(self, loss.backward(), report)
    }

    fn optimize(
        self,
        optimizer: &mut ModuleOptimizer,
        rate: ModuleLearningRate,
        mut gradients: GradientsParams,
    ) -> Self {
        if let Some(squares) = gradient::squares(&self, &gradients) {
            let step = self.at.0.load(Ordering::SeqCst);
            self.norms.put(step, squares.clone());
            // Only this and the masses below wait for the device, and clipping on a processor.
            if self.skips && !gradient::norm(squares.clone()).is_finite() {
                self.masses.drain();
                return self;
            }
            if let Some(limit) = self.gradient_clip {
                gradient::clip(&self, &mut gradients, squares, limit);
            }
        }
        let stepped: Self = optimizer.step(rate, self, gradients);
        let step = stepped.at.0.load(Ordering::SeqCst);
        let llama =
            stepped
                .method
                .0
                .training()
                .after_step(stepped.llama.clone(), step, stepped.questions);
        let masses = stepped.masses.take();
        let llama = match masses.is_empty() {
            true => llama,
            false => llama.with_masses(&masses),
        };
        Self { llama, ..stepped }
    }
}

impl InferenceStep for Trainee {
    type Input = Batch;
    type Output = StepOutput;

    fn step(&self, batch: Batch) -> StepOutput {
        let (reading, objective) = self.objective(&batch, DropoutSeed::OFF);
        report(reading, &objective, batch, &self.norms)
    }
}

impl ItemLazy for StepOutput {
    fn sync(self) -> Result<Self, ExecutionError> {
        Ok(self)
    }
}

impl StepOutput {
    /// The step's numbers on the host.
    pub fn facts(&self) -> &StepFacts {
        self.facts.get_or_init(|| self.read())
    }

    fn read(&self) -> StepFacts {
        let batch = &self.batch;
        let load = self.expert_load.clone().map(|load| {
            let [_, experts] = load.dims();
            values(load).chunks(experts).map(<[f64]>::to_vec).collect()
        });
        let mut facts = StepFacts {
            // Answers that are no numbers come with such a loss, which ends the training; a batch
            // of no weight only keeps several devices in step.
            rows: match batch.share() > 0.0 {
                true => self.prediction.rows(batch).unwrap_or_default(),
                false => Vec::new(),
            },
            terms: self
                .terms
                .iter()
                .map(|(name, weight, value)| (*name, *weight, value.clone().into_scalar::<f64>()))
                .collect(),
            expert_load: load.unwrap_or_default(),
            step: batch.training.map_or(0, |part| part.step),
            share: batch.share(),
            real_tokens: batch.input.real_tokens,
            computed_tokens: batch.computed_tokens(),
            gradient_norm: None,
            suspects: Vec::new(),
        };
        facts.gradient_norm = self.norms.take(facts.step);
        if !facts.loss().is_finite() && facts.share > 0.0 {
            facts.suspects = batch.ids.clone();
        }
        facts
    }
}

/// Every live metric reads the same facts.
impl Adaptor<StepFacts> for StepOutput {
    fn adapt(&self) -> StepFacts {
        self.facts().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masses_of_a_step_are_weighted_by_the_shares_and_taken_once() {
        let masses = Masses::default();
        for (share, means) in [(0.25, [1.0f32, 0.5]), (0.75, [0.5, 0.0])] {
            let means = Tensor::from_data(means, &Device::flex());
            masses.all().push((share, means));
        }
        assert_eq!(masses.take(), [0.625, 0.125]);
        assert!(masses.take().is_empty());
    }
}
