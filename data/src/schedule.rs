//! How many optimizer steps a training has, and how questions are spread over them.

/// How training walks through its questions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// Questions of one optimizer step.
    pub batch_size: usize,
    /// Questions of one forward pass at most.
    pub micro_batch: usize,
    /// Tokens of one forward pass at most, padding included; one question alone may have more.
    pub micro_tokens: usize,
    /// Passes over the rows; may be a fraction.
    pub epochs: f64,
    /// Optimizer steps after which training stops, if that comes before the last epoch's end.
    pub max_steps: Option<usize>,
    /// Optimizer steps of one chunk; a checkpoint follows each chunk.
    pub checkpoint_every: usize,
    /// Adapters to keep over the second half of training, the last one included. A chunk ends at
    /// each.
    pub snapshots: usize,
    /// Seed of the order of questions and of dropout.
    pub seed: u64,
    /// Whether questions of like length share a step, which saves padding.
    pub bucket: bool,
}

impl Schedule {
    /// Optimizer steps of one pass over so many rows.
    pub fn steps_per_epoch(&self, rows: usize) -> usize {
        rows.div_ceil(self.batch_size).max(1)
    }

    /// Optimizer steps of the whole training; none only where `max_steps` says so.
    pub fn total_steps(&self, rows: usize) -> usize {
        let steps = (self.steps_per_epoch(rows) as f64 * self.epochs - 1e-9).ceil() as usize;
        steps.max(1).min(self.max_steps.unwrap_or(usize::MAX))
    }

    /// Optimizer steps after which adapters are kept: evenly over the second half, the last step
    /// included.
    pub fn snapshot_steps(&self, rows: usize) -> Vec<usize> {
        let (total, n) = (self.total_steps(rows), self.snapshots);
        let mut steps: Vec<usize> = (1..=n).map(|i| (total * (n + i)).div_ceil(2 * n)).collect();
        steps.dedup();
        steps
    }

    /// The optimizer step at which the chunk that begins after `first` steps ends.
    pub fn chunk_end(&self, rows: usize, first: usize) -> usize {
        let per_epoch = self.steps_per_epoch(rows);
        let snapshot = self.snapshot_steps(rows).into_iter().find(|s| *s > first);
        (first + self.checkpoint_every)
            .min((first / per_epoch + 1) * per_epoch)
            .min(snapshot.unwrap_or(usize::MAX))
            .min(self.total_steps(rows))
    }

    /// Whether questions of these lengths may share a forward pass.
    pub(crate) fn fits(&self, lengths: impl ExactSizeIterator<Item = usize>) -> bool {
        let count = lengths.len();
        let longest = lengths.max().unwrap_or(0);
        count <= self.micro_batch && (count < 2 || count * longest <= self.micro_tokens)
    }
}

/// Optimizer-step counts at which chunks end, from `first` to the end of training.
pub fn chunk_ends(schedule: &Schedule, rows: usize, first: usize) -> Vec<usize> {
    let total = schedule.total_steps(rows);
    let (mut ends, mut at) = (Vec::new(), first);
    while at < total {
        at = schedule.chunk_end(rows, at);
        ends.push(at);
    }
    ends
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn snapshots_lie_evenly_in_the_second_half_and_end_chunks() {
        let with = |snapshots| Schedule {
            snapshots,
            checkpoint_every: 50,
            epochs: 4.0,
            ..schedule()
        };
        assert_eq!(with(3).snapshot_steps(10), [8, 10, 12]);
        assert_eq!(chunk_ends(&with(3), 10, 0), [3, 6, 8, 9, 10, 12]);
        assert_eq!(with(0).snapshot_steps(10), [0usize; 0]);
        assert_eq!(with(100).snapshot_steps(10).len(), 6);
    }
}
