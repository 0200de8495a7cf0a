//! Every question once, for evaluation.

use std::sync::Arc;

use burn::data::dataloader::batcher::Batcher;
use burn::data::dataloader::{DataLoader, DataLoaderIterator, Progress};
use burn::data::dataset::DatasetError;
use burn::tensor::Device;

use super::state::LoaderState;
use crate::batch::Batch;
use crate::batcher::QuestionBatcher;
use crate::encoded::EncodedQuestion;

/// Serves every question once, in batches of a limited number of tokens.
///
/// The longest questions come first, so that the first batch shows whether memory suffices. Room
/// for answers that the model writes counts as tokens.
#[derive(Clone)]
pub struct EvaluationLoader {
    batches: Arc<Vec<Vec<EncodedQuestion>>>,
    batcher: QuestionBatcher,
    device: Device,
    state: Arc<LoaderState>,
}

impl EvaluationLoader {
    /// A loader of batches of at most `max_tokens` tokens. A stop in `state` ends it, but never
    /// before the first batch.
    pub fn new(
        questions: &[EncodedQuestion],
        max_tokens: usize,
        state: Arc<LoaderState>,
        device: &Device,
    ) -> Self {
        Self::with_batcher(
            questions,
            max_tokens,
            QuestionBatcher::default(),
            state,
            device,
        )
    }

    /// The same loader with a choice of what the batches carry.
    pub fn with_batcher(
        questions: &[EncodedQuestion],
        max_tokens: usize,
        batcher: QuestionBatcher,
        state: Arc<LoaderState>,
        device: &Device,
    ) -> Self {
        let mut sorted = questions.to_vec();
        let length = EncodedQuestion::asked_length;
        sorted.sort_by(|a, b| length(b).cmp(&length(a)).then(a.id.cmp(&b.id)));
        let padded = |q: &EncodedQuestion| batcher.options.padding.padded(length(q), device);
        let mut batches: Vec<Vec<EncodedQuestion>> = Vec::new();
        for question in sorted {
            match batches.last_mut() {
                Some(batch) if (batch.len() + 1) * padded(&batch[0]) <= max_tokens => {
                    batch.push(question);
                }
                _ => batches.push(vec![question]),
            }
        }
        Self {
            batches: Arc::new(batches),
            batcher,
            device: device.clone(),
            state,
        }
    }
}

struct BatchIterator<'a> {
    loader: &'a EvaluationLoader,
    next: usize,
}

impl Iterator for BatchIterator<'_> {
    type Item = Result<Batch, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next > 0 && self.loader.state.ends() {
            return None;
        }
        let items = self.loader.batches.get(self.next)?.clone();
        self.next += 1;
        Some(Ok(self.loader.batcher.batch(items, &self.loader.device)))
    }
}

impl DataLoaderIterator<Batch> for BatchIterator<'_> {
    fn progress(&self) -> Progress {
        let served = self.loader.batches[..self.next].iter().map(Vec::len).sum();
        Progress::new(served, self.loader.num_items(), Some("questions".into()))
    }
}

impl DataLoader<Batch> for EvaluationLoader {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<Batch> + 'a> {
        Box::new(BatchIterator {
            loader: self,
            next: 0,
        })
    }

    fn num_items(&self) -> usize {
        self.batches.iter().map(Vec::len).sum()
    }

    fn to_device(&self, device: &Device) -> Arc<dyn DataLoader<Batch>> {
        Arc::new(Self {
            device: device.clone(),
            ..self.clone()
        })
    }

    fn slice(&self, start: usize, end: usize) -> Arc<dyn DataLoader<Batch>> {
        let questions: Vec<EncodedQuestion> = self.batches.iter().flatten().cloned().collect();
        let batches = questions[start..end]
            .iter()
            .map(|q| vec![q.clone()])
            .collect();
        Arc::new(Self {
            batches: Arc::new(batches),
            ..self.clone()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn questions(n: usize) -> Arc<Vec<EncodedQuestion>> {
        Arc::new(
            (0..n)
                .map(|i| {
                    EncodedQuestion::lettered(&i.to_string(), vec![1; 1 + i * 7 % 13], &[1, 2], 0)
                })
                .collect(),
        )
    }

    #[test]
    fn evaluation_serves_every_row_once_within_the_token_limit() {
        let rows = questions(20);
        let loader = EvaluationLoader::new(&rows, 30, Arc::default(), &Device::flex());
        let mut served = Vec::new();
        for batch in loader.iter() {
            let batch = batch.unwrap();
            assert!(batch.computed_tokens() <= 30);
            served.extend(batch.ids);
        }
        served.sort_by_key(|id| id.parse::<usize>().unwrap());
        assert_eq!(served, (0..20).map(|i| i.to_string()).collect::<Vec<_>>());
    }
}
