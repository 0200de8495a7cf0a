//! Requests whose questions wait, and whose turn it is.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tokio::sync::oneshot;
use train::answering::Asked;

use super::outcome::{Reply, Unanswered};

/// A request's questions and where their answers go.
pub(super) struct Job {
    pub(super) asked: Vec<Asked>,
    /// For each question, whether its routing is wanted too.
    pub(super) routing: Vec<bool>,
    /// For each question, its cost.
    pub(super) costs: Vec<u64>,
    /// Cost of the questions that are not answered yet, for who counts the load.
    pub(super) left: Arc<AtomicU64>,
    /// When the answers are too late.
    pub(super) until: Instant,
    pub(super) reply: oneshot::Sender<Result<Vec<Reply>, Unanswered>>,
    /// The answers so far, in the order of the questions.
    pub(super) done: Vec<Reply>,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job")
            .field("asked", &self.asked.len())
            .field("done", &self.done.len())
            .finish_non_exhaustive()
    }
}

impl Job {
    /// Cost of the questions that are not answered yet.
    pub(super) fn cost(&self) -> u64 {
        self.costs[self.done.len()..].iter().sum()
    }

    /// Adds answers; gives them all out with the last one.
    pub(super) fn answered(mut self, replies: Vec<Reply>) -> Option<Self> {
        self.done.extend(replies);
        self.left.store(self.cost(), Ordering::Relaxed);
        if self.done.len() < self.asked.len() {
            return Some(self);
        }
        let _ = self.reply.send(Ok(self.done));
        None
    }
}

/// The part of a request that is asked in one pass: its next `questions`.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) job: Job,
    pub(super) questions: usize,
}

impl Part {
    /// The cost of this part.
    pub(super) fn cost(&self) -> u64 {
        let first = self.job.done.len();
        self.job.costs[first..][..self.questions].iter().sum()
    }

    /// The questions of this part.
    pub(super) fn asked(&self) -> &[Asked] {
        &self.job.asked[self.job.done.len()..][..self.questions]
    }
}

/// Requests in the order of their turns.
#[derive(Debug, Default)]
pub(super) struct Queue(VecDeque<Job>);

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn push(&mut self, job: Job) {
        self.0.push_back(job);
    }

    /// Questions that wait.
    pub(super) fn questions(&self) -> usize {
        self.0
            .iter()
            .map(|job| job.asked.len() - job.done.len())
            .sum()
    }

    /// Takes out the requests that are not worth asking.
    pub(super) fn remove(&mut self, unwanted: impl Fn(&Job) -> bool) -> Vec<Job> {
        let (gone, kept) = self.0.drain(..).partition(|job| unwanted(job));
        self.0 = kept;
        Vec::from(gone)
    }

    /// Takes the next questions, one of each request in turn: at most `questions`, of at most
    /// `cost` together unless one alone has more. The next slice begins where this one ends. The
    /// requests come out with their number of questions; [`Self::back`] puts them back.
    pub(super) fn slice(&mut self, questions: usize, cost: u64) -> Vec<Part> {
        let (mut taken, mut skipped) = (vec![0; self.0.len()], vec![false; self.0.len()]);
        let (mut total, mut spent, mut next) = (0, 0, 0);
        loop {
            let before = total;
            for (place, job) in self.0.iter().enumerate() {
                let Some(cost_of_next) = job.costs.get(job.done.len() + taken[place]) else {
                    continue;
                };
                skipped[place] |= total > 0 && spent + cost_of_next > cost;
                if skipped[place] || total == questions {
                    continue;
                }
                taken[place] += 1;
                (total, spent, next) = (total + 1, spent + cost_of_next, place + 1);
            }
            if total == before {
                break;
            }
        }
        if !self.0.is_empty() {
            // Whoever was passed over comes first.
            let next = skipped.iter().position(|skipped| *skipped).unwrap_or(next) % taken.len();
            self.0.rotate_left(next);
            taken.rotate_left(next);
        }
        let all = std::mem::take(&mut self.0).into_iter().zip(taken);
        let mut parts = Vec::new();
        for (job, questions) in all {
            match questions {
                0 => self.0.push_back(job),
                _ => parts.push(Part { job, questions }),
            }
        }
        parts
    }

    /// Puts requests back that have further questions, behind those that had no turn.
    pub(super) fn back(&mut self, jobs: impl IntoIterator<Item = Job>) {
        self.0.extend(jobs);
    }
}

#[cfg(test)]
mod tests {
    use data::MultipleChoice;

    use super::*;

    /// A request of as many questions as it has costs; its name stands in for its questions.
    fn job(name: &str, costs: &[u64]) -> Job {
        let question = MultipleChoice {
            id: name.into(),
            question: name.into(),
            passage: None,
            choices: vec!["a".into(), "b".into()],
            answer: 0,
            group: None,
            written: false,
        };
        let asked = Asked {
            question,
            answer: None,
        };
        Job {
            asked: vec![asked; costs.len()],
            routing: vec![false; costs.len()],
            costs: costs.into(),
            left: Arc::default(),
            until: Instant::now(),
            reply: oneshot::channel().0,
            done: Vec::new(),
        }
    }

    /// Slices until nothing waits, as `name questions`.
    fn slices(jobs: &[(&str, &[u64])], questions: usize, cost: u64) -> Vec<String> {
        let mut queue = Queue::default();
        jobs.iter()
            .for_each(|(name, costs)| queue.push(job(name, costs)));
        let mut slices = Vec::new();
        while !queue.is_empty() {
            let parts = queue.slice(questions, cost);
            let said = parts.iter().map(|part| {
                let name = &part.asked()[0].question.id;
                format!("{name}{}", part.questions)
            });
            slices.push(said.collect::<Vec<_>>().join(" "));
            let rest = parts.into_iter().filter_map(|mut part| {
                // Answered, without answers: the costs alone matter here.
                part.job.costs.drain(..part.questions);
                part.job.asked.drain(..part.questions);
                (!part.job.asked.is_empty()).then_some(part.job)
            });
            queue.back(rest.collect::<Vec<_>>());
        }
        slices
    }

    #[test]
    fn requests_take_turns() {
        assert_eq!(
            slices(&[("a", &[1; 9]), ("b", &[1; 2]), ("c", &[1; 3])], 4, 100),
            ["b1 c1 a2", "a1 b1 c2", "a4", "a2"]
        );
    }

    /// A question that takes a whole slice does not keep short ones waiting for the next ten.
    #[test]
    fn a_long_request_waits_after_each_question() {
        assert_eq!(
            slices(&[("long", &[50; 4]), ("short", &[1; 3])], 16, 10),
            ["long1", "short3", "long1", "long1", "long1"]
        );
        assert_eq!(
            slices(&[("a", &[9; 2]), ("b", &[9; 2]), ("c", &[9; 2])], 16, 10),
            ["a1", "b1", "c1", "a1", "b1", "c1"]
        );
    }

    #[test]
    fn nothing_waits_for_nothing() {
        assert!(Queue::default().slice(4, 10).is_empty());
        let mut queue = Queue::default();
        queue.push(job("a", &[1, 1]));
        assert_eq!(queue.questions(), 2);
        assert_eq!(queue.remove(|_| true).len(), 1);
        assert!(queue.is_empty());
    }
}
