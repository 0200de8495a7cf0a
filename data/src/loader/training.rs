//! Training questions in chunks of optimizer steps.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use burn::data::dataloader::batcher::Batcher;
use burn::data::dataloader::{DataLoader, DataLoaderIterator, Progress};
use burn::data::dataset::DatasetError;
use burn::tensor::Device;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::state::LoaderState;
use crate::batch::{Batch, StepPart};
use crate::batcher::QuestionBatcher;
use crate::encoded::EncodedQuestion;
use crate::schedule::Schedule;
use crate::seed::mix;

/// Optimizer steps whose questions are sorted by length together, before the steps are shuffled.
const BUCKET: usize = 16;

/// The rows of each optimizer step of an epoch.
fn epoch_order(
    questions: &[EncodedQuestion],
    schedule: &Schedule,
    epoch: usize,
) -> Vec<Vec<usize>> {
    let mut rng = ChaCha8Rng::seed_from_u64(mix(schedule.seed, epoch as u64));
    let mut rows: Vec<usize> = (0..questions.len()).collect();
    rows.shuffle(&mut rng);
    if schedule.bucket {
        for bucket in rows.chunks_mut(schedule.batch_size * BUCKET) {
            bucket.sort_by_key(|row| questions[*row].length());
        }
    }
    let mut batches: Vec<Vec<usize>> = rows
        .chunks(schedule.batch_size)
        .map(<[usize]>::to_vec)
        .collect();
    batches.shuffle(&mut rng);
    batches
}

/// Serves training in chunks of optimizer steps.
#[derive(Clone)]
pub struct TrainLoader {
    questions: Arc<Vec<EncodedQuestion>>,
    batcher: QuestionBatcher,
    schedule: Schedule,
    device: Device,
    state: Arc<LoaderState>,
    /// Devices that share every optimizer step, and which of them this loader serves.
    parts: usize,
    part: usize,
}

impl TrainLoader {
    /// A loader that begins where `state` says.
    pub fn new(
        questions: Arc<Vec<EncodedQuestion>>,
        batcher: QuestionBatcher,
        schedule: Schedule,
        state: Arc<LoaderState>,
        device: &Device,
    ) -> Self {
        Self {
            questions,
            batcher,
            schedule,
            device: device.clone(),
            state,
            parts: 1,
            part: 0,
        }
    }

    /// The same loader for several devices: [`DataLoader::slice`] then gives each device its share
    /// of every optimizer step's questions.
    pub fn shared_by(self, devices: usize) -> Self {
        Self {
            parts: devices,
            ..self
        }
    }

    /// Optimizer steps of the whole training.
    pub fn total_steps(&self) -> usize {
        self.schedule.total_steps(self.questions.len())
    }

    /// Micro-batches that each device needs for these rows of one optimizer step.
    fn rounds(&self, rows: &[usize]) -> usize {
        let padding = self.batcher.options.padding;
        let length = |row: &usize| padding.padded(self.questions[*row].length(), &self.device);
        let fit = |rounds: &usize| {
            let pieces = self.parts * rounds;
            (0..pieces).all(|i| self.schedule.fits(even(rows, i, pieces).iter().map(length)))
        };
        (1..rows.len()).find(fit).unwrap_or(rows.len())
    }

    /// The micro-batches of one optimizer step.
    fn step(&self, step: usize, orders: &mut OrderCache) -> Vec<Batch> {
        let per_epoch = self.schedule.steps_per_epoch(self.questions.len());
        let (epoch, inside) = (step / per_epoch, step % per_epoch);
        let rows = orders.get(epoch, || {
            epoch_order(&self.questions, &self.schedule, epoch)
        })[inside]
            .clone();
        // Every device gets as many micro-batches, so that all reach the end of the step together.
        let rounds = self.rounds(&rows);
        (0..rounds)
            .map(|round| {
                let part = even(&rows, self.part * rounds + round, self.parts * rounds);
                // More places than rows: a row that counts for nothing keeps the devices in step.
                let taken = if part.is_empty() { &rows[..1] } else { part };
                let items = taken
                    .iter()
                    .map(|row| self.questions[*row].clone())
                    .collect();
                let mut batch = self.batcher.batch(items, &self.device);
                batch.training = Some(StepPart {
                    step: step + 1,
                    seed: mix(self.schedule.seed, step as u64),
                    share: part.len() as f64 / rows.len() as f64,
                });
                batch
            })
            .collect()
    }
}

/// Piece `i` of `n` whose lengths differ by at most 1.
fn even(rows: &[usize], i: usize, n: usize) -> &[usize] {
    &rows[i * rows.len() / n..(i + 1) * rows.len() / n]
}

/// The order of the current epoch.
#[derive(Default)]
struct OrderCache(Option<(usize, Vec<Vec<usize>>)>);

impl OrderCache {
    fn get(&mut self, epoch: usize, make: impl FnOnce() -> Vec<Vec<usize>>) -> &[Vec<usize>] {
        if self.0.as_ref().is_none_or(|(known, _)| *known != epoch) {
            self.0 = Some((epoch, make()));
        }
        &self.0.as_ref().expect("just filled").1
    }
}

struct ChunkIterator<'a> {
    loader: &'a TrainLoader,
    orders: OrderCache,
    first: usize,
    last: usize,
    next: usize,
    pending: std::vec::IntoIter<Batch>,
}

impl Iterator for ChunkIterator<'_> {
    type Item = Result<Batch, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(batch) = self.pending.next() {
                if self.pending.len() == 0 {
                    self.loader
                        .state
                        .steps_done
                        .store(self.next, Ordering::SeqCst);
                }
                return Some(Ok(batch));
            }
            // A stop takes effect between optimizer steps, and never before the first: a chunk of
            // nothing has no metrics.
            let state = &self.loader.state;
            if self.loader.part == 0 && self.next > self.first {
                state.heed_stop(self.next);
            }
            if self.next >= self.last || state.stops_before(self.next) {
                return None;
            }
            self.pending = self.loader.step(self.next, &mut self.orders).into_iter();
            self.next += 1;
        }
    }
}

impl DataLoaderIterator<Batch> for ChunkIterator<'_> {
    fn progress(&self) -> Progress {
        // Complete exactly when the last micro-batch of an optimizer step was served: the Learner
        // then flushes the accumulated gradients, so a ragged last group is never mixed into the
        // next one.
        let whole_step = self.pending.len() == 0;
        Progress::new(usize::from(whole_step), 1, Some("optimizer steps".into()))
    }
}

impl DataLoader<Batch> for TrainLoader {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<Batch> + 'a> {
        let first = self.state.steps_done.load(Ordering::SeqCst);
        self.state.begin_chunk();
        let last = self.schedule.chunk_end(self.questions.len(), first);
        Box::new(ChunkIterator {
            loader: self,
            orders: OrderCache::default(),
            first,
            last,
            next: first,
            pending: Vec::new().into_iter(),
        })
    }

    /// Burn divides this number among the devices to find each one's slice.
    fn num_items(&self) -> usize {
        match self.parts {
            1 => self.questions.len(),
            parts => parts,
        }
    }

    fn to_device(&self, device: &Device) -> Arc<dyn DataLoader<Batch>> {
        Arc::new(Self {
            device: device.clone(),
            ..self.clone()
        })
    }

    /// The loader of device `start`; see [`TrainLoader::shared_by`].
    fn slice(&self, start: usize, _: usize) -> Arc<dyn DataLoader<Batch>> {
        Arc::new(Self {
            part: start,
            ..self.clone()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::chunk_ends;

    fn questions(n: usize) -> Arc<Vec<EncodedQuestion>> {
        Arc::new(
            (0..n)
                .map(|i| {
                    EncodedQuestion::lettered(&i.to_string(), vec![1; 1 + i * 7 % 13], &[1, 2], 0)
                })
                .collect(),
        )
    }

    fn schedule() -> Schedule {
        Schedule {
            batch_size: 4,
            micro_batch: 3,
            micro_tokens: 1000,
            epochs: 2.0,
            max_steps: None,
            checkpoint_every: 2,
            snapshots: 0,
            seed: 1,
            bucket: true,
        }
    }

    fn loader(state: &Arc<LoaderState>) -> TrainLoader {
        TrainLoader::new(
            questions(10),
            QuestionBatcher::default(),
            schedule(),
            state.clone(),
            &Device::flex(),
        )
    }

    fn chunk(loader: &TrainLoader) -> Vec<Vec<String>> {
        loader.iter().map(|batch| batch.unwrap().ids).collect()
    }

    #[test]
    fn every_epoch_serves_each_row_once_in_chunks_and_another_order() {
        let state = Arc::new(LoaderState::default());
        let loader = loader(&state);
        let chunks: Vec<_> = (0..4).map(|_| chunk(&loader)).collect();
        // 10 rows in batches of 4 are 3 steps an epoch: chunks end at 2, 3, 5, 6.
        assert_eq!(chunk_ends(&schedule(), 10, 0), [2, 3, 5, 6]);
        assert_eq!(state.steps_done.load(Ordering::SeqCst), 6);
        let flat = |part: &[Vec<Vec<String>>]| part.concat().concat();
        let (first, second) = (flat(&chunks[..2]), flat(&chunks[2..]));
        assert_ne!(first, second);
        for epoch in [first, second] {
            let mut rows: Vec<usize> = epoch.iter().map(|id| id.parse().unwrap()).collect();
            rows.sort_unstable();
            assert_eq!(rows, (0..10).collect::<Vec<_>>());
        }
        assert_eq!(chunk(&loader).len(), 0);
    }

    #[test]
    fn a_forward_pass_is_bounded_in_questions_and_in_padded_tokens() {
        let state = Arc::new(LoaderState::default());
        for (micro_tokens, parts) in [(1, 1), (20, 1), (20, 2), (1000, 1)] {
            let schedule = Schedule {
                micro_tokens,
                ..schedule()
            };
            let batcher = QuestionBatcher::default();
            let loader = TrainLoader::new(
                questions(10),
                batcher,
                schedule,
                state.clone(),
                &Device::flex(),
            );
            let loader = loader.shared_by(parts);
            let mut orders = OrderCache::default();
            let batches: Vec<Batch> = (0..3)
                .flat_map(|step| loader.step(step, &mut orders))
                .collect();
            for batch in &batches {
                assert!(batch.len() <= 3);
                assert!(batch.len() == 1 || batch.computed_tokens() <= micro_tokens);
            }
            let served: usize = batches.iter().map(Batch::len).sum();
            match (micro_tokens, parts) {
                (1, _) => assert_eq!(batches.len(), 10),
                // At most three questions a pass: 2 + 2, 2 + 2, 2.
                (1000, _) => assert_eq!(batches.len(), 5),
                _ => assert!(parts == 2 || served == 10),
            }
        }
    }

    #[test]
    fn a_resumed_loader_serves_what_the_straight_one_would() {
        let state = Arc::new(LoaderState::default());
        let straight = loader(&state);
        let all: Vec<_> = (0..4).flat_map(|_| chunk(&straight)).collect();
        let state = Arc::new(LoaderState::after(3));
        let resumed = loader(&state);
        let rest: Vec<_> = (0..2).flat_map(|_| chunk(&resumed)).collect();
        assert_eq!(rest, all[all.len() - rest.len()..]);
    }

    #[test]
    fn devices_share_every_optimizer_step_and_stay_in_step() {
        for micro_batch in [1, 2, 3] {
            let shared = TrainLoader::new(
                questions(10),
                QuestionBatcher::default(),
                Schedule {
                    micro_batch,
                    ..schedule()
                },
                Arc::default(),
                &Device::flex(),
            )
            .shared_by(3);
            assert_eq!(shared.num_items(), 3);
            let parts: Vec<_> = (0..3).map(|part| shared.slice(part, part + 1)).collect();
            let mut iterators: Vec<_> = parts.iter().map(|part| part.iter()).collect();
            let (mut rows, mut share) = (Vec::new(), 0.0);
            for round in 0.. {
                let served: Vec<Batch> = iterators
                    .iter_mut()
                    .filter_map(|i| i.next().map(Result::unwrap))
                    .collect();
                if served.is_empty() {
                    break;
                }
                assert_eq!(served.len(), 3, "round {round}");
                let step = |b: &Batch| b.training.unwrap().step;
                assert!(served.iter().all(|b| step(b) == step(&served[0])));
                let whole = iterators.iter().map(|i| i.progress().is_completed());
                let whole: Vec<bool> = whole.collect();
                assert!(whole.iter().all(|w| *w == whole[0]));
                for batch in served {
                    share += batch.share();
                    if batch.share() > 0.0 {
                        rows.extend(batch.ids);
                    }
                }
            }
            // The first chunk is two optimizer steps.
            assert!((share - 2.0).abs() < 1e-12);
            rows.sort();
            let mut alone: Vec<String> = chunk(&loader(&Arc::default())).concat();
            alone.sort();
            assert_eq!(rows, alone);
        }
    }

    #[test]
    fn shares_of_an_optimizer_step_sum_to_one_and_a_stop_ends_the_chunk() {
        let state = Arc::new(LoaderState::default());
        let loader = loader(&state);
        let mut iterator = loader.iter();
        let first = iterator.next().unwrap().unwrap();
        assert_eq!(
            iterator.progress().is_completed(),
            first.len() == 4 || first.share() == 1.0
        );
        let mut share = first.share();
        while !iterator.progress().is_completed() {
            share += iterator.next().unwrap().unwrap().share();
        }
        assert!((share - 1.0).abs() < 1e-12);
        state.stop.store(true, Ordering::SeqCst);
        assert!(iterator.next().is_none());
        assert_eq!(state.steps_done.load(Ordering::SeqCst), 1);
    }
}
