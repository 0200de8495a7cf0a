//! The one thread that owns the model: it asks the questions of concurrent requests together, in
//! slices that last about a second, by turns.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use train::TrainError;
use train::answering::{Answer, Answerer, Asked};

use super::load::{self, Load};
use super::metrics::Metrics;
use super::outcome::{Reply, Unanswered};
use super::queue::{Job, Part, Queue};

/// How long the questions of a slice should keep the model. A short question waits for one slice
/// at most before its turn.
const SLICE: Duration = Duration::from_secs(1);
/// Characters of a token, at most: bounds what a text that is cut can cost.
const TOKEN: usize = 6;

/// Limits of putting requests together in one forward pass.
#[derive(Debug, Clone, Copy)]
pub struct Batching {
    /// Questions asked together at most.
    pub questions: usize,
    /// How long the first request waits for others.
    pub wait: Duration,
    /// Requests that may wait. More are turned away.
    pub queue: usize,
    /// Time for one request.
    pub time: Duration,
}

/// Passes questions to the thread that owns the model.
#[derive(Debug, Clone)]
pub struct Worker {
    jobs: SyncSender<Job>,
    alive: Arc<AtomicBool>,
    load: Arc<Load>,
    batching: Batching,
    /// Characters of a prompt, at most.
    longest: usize,
    metrics: Arc<Metrics>,
}

/// Marks the thread's end, however it comes.
struct Alive(Arc<AtomicBool>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

impl Worker {
    /// Starts the thread and waits until it is ready. The thread opens the run itself, because
    /// tensors stay on it. What `describe` says of the run comes back.
    ///
    /// # Errors
    /// As [`Answerer::open`].
    pub fn start<T: Send + 'static>(
        open: impl FnOnce() -> Result<Answerer, TrainError> + Send + 'static,
        describe: impl FnOnce(&Answerer) -> T + Send + 'static,
        batching: Batching,
        metrics: Arc<Metrics>,
    ) -> Result<(Self, T, JoinHandle<()>), TrainError> {
        let (jobs, incoming) = sync_channel(batching.queue);
        let (ready, is_ready) = sync_channel(1);
        let alive = Arc::new(AtomicBool::new(true));
        let mark = Alive(alive.clone());
        let load = Arc::new(Load::default());
        let (measured, noted) = (metrics.clone(), load.clone());
        let thread = std::thread::spawn(move || {
            let _mark = mark;
            match open() {
                Err(error) => drop(ready.send(Err(error))),
                Ok(answerer) => {
                    let said = (describe(&answerer), answerer.prompt_tokens());
                    drop(ready.send(Ok(said)));
                    Desk {
                        answerer: &answerer,
                        batching,
                        load: &noted,
                        metrics: &measured,
                    }
                    .work(&incoming);
                }
            }
        });
        let gone = |_| {
            Err(TrainError::Training(
                "the model's thread ended before it began".into(),
            ))
        };
        let (said, tokens) = is_ready.recv().unwrap_or_else(gone)?;
        let worker = Self {
            jobs,
            alive,
            load,
            batching,
            longest: TOKEN * tokens,
            metrics,
        };
        Ok((worker, said, thread))
    }

    /// Whether the thread still answers.
    pub fn is_alive(&self) -> bool {
        self.alive.load(Ordering::SeqCst)
    }

    /// Seconds after which it makes sense to ask again.
    pub fn again(&self) -> u64 {
        self.load.again(self.batching.time)
    }

    /// Asks questions; several callers' are put together, by turns. When this future is dropped,
    /// what has not been asked yet is not asked any more.
    ///
    /// # Errors
    /// Requests or work that exceed what can be answered in time, a thread that is gone, or a
    /// question that cannot be put.
    pub async fn ask(
        &self,
        asked: Vec<Asked>,
        routing: Vec<bool>,
    ) -> Result<Vec<Reply>, Unanswered> {
        let costs: Vec<u64> = asked
            .iter()
            .zip(&routing)
            .map(|(asked, routing)| load::cost(asked, *routing, self.longest))
            .collect();
        let Batching { queue, time, .. } = self.batching;
        let ticket = self.load.admit(costs.iter().sum(), queue, time)?;
        let _waits = Waits::new(&self.metrics);
        let (reply, answer) = oneshot::channel();
        let job = Job {
            asked,
            routing,
            costs,
            left: ticket.left.clone(),
            until: Instant::now() + time,
            reply,
            done: Vec::new(),
        };
        self.jobs.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => Unanswered::Busy { again: 1 },
            TrySendError::Disconnected(_) => Unanswered::Gone,
        })?;
        answer.await.map_err(|_| Unanswered::Gone)?
    }
}

/// Counts a request among those that wait.
struct Waits<'a>(&'a Metrics);

impl<'a> Waits<'a> {
    fn new(metrics: &'a Metrics) -> Self {
        metrics.waiting.inc();
        Self(metrics)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.waiting.dec();
    }
}

/// Where the questions are put to the model.
struct Desk<'a> {
    answerer: &'a Answerer,
    batching: Batching,
    load: &'a Load,
    metrics: &'a Metrics,
}

impl Desk<'_> {
    /// Answers until nobody can ask any more.
    fn work(&self, jobs: &Receiver<Job>) {
        let mut queue = Queue::default();
        loop {
            if queue.is_empty() {
                let Ok(first) = jobs.recv() else {
                    return;
                };
                queue.push(first);
                // Others may be about to ask.
                let until = Instant::now() + self.batching.wait;
                while queue.questions() < self.batching.questions {
                    let wait = until.saturating_duration_since(Instant::now());
                    let Ok(job) = jobs.recv_timeout(wait) else {
                        break;
                    };
                    queue.push(job);
                }
            }
            jobs.try_iter().for_each(|job| queue.push(job));
            // Whoever has gone (a time-out, a closed connection) needs no answer.
            queue.remove(|job| job.reply.is_closed());
            for late in queue.remove(|job| !self.load.in_time(job.cost(), job.until)) {
                let again = self.load.again(self.batching.time);
                let _ = late.reply.send(Err(Unanswered::Late { again }));
            }
            let parts = queue.slice(self.batching.questions, self.load.slice(SLICE));
            queue.back(self.slice(parts));
        }
    }

    /// Asks a slice. The requests that have further questions come back.
    fn slice(&self, parts: Vec<Part>) -> Vec<Job> {
        let asked: Vec<Asked> = parts
            .iter()
            .flat_map(|part| part.asked().to_vec())
            .collect();
        if asked.is_empty() {
            return Vec::new();
        }
        let cost = parts.iter().map(Part::cost).sum();
        self.metrics.batch.observe(asked.len() as f64);
        let began = Instant::now();
        let together = self.asked(|| self.answerer.answer(&asked));
        let taken = began.elapsed().as_secs_f64();
        self.metrics.model_seconds.observe(taken);
        let whole = together.is_ok();
        let given: Vec<Result<Vec<Answer>, Unanswered>> = match together {
            Ok(answers) => {
                let mut answers = answers.into_iter();
                let mut next = |part: &Part| answers.by_ref().take(part.questions).collect();
                parts.iter().map(|part| Ok(next(part))).collect()
            }
            Err(error) if parts.len() == 1 => vec![Err(error)],
            // One question that cannot be put must not cost the others theirs.
            Err(_) => {
                let alone = |part: &Part| self.asked(|| self.answerer.answer(part.asked()));
                parts.iter().map(alone).collect()
            }
        };
        let mut rest = Vec::new();
        for (part, answers) in parts.into_iter().zip(given) {
            let replies = answers
                .and_then(|answers| self.asked(|| with_routing(self.answerer, &part, answers)));
            match replies {
                Ok(replies) => {
                    let given = replies.iter().map(|reply| &reply.answer);
                    given.for_each(|answer| self.metrics.answered(answer));
                    rest.extend(part.job.answered(replies));
                }
                Err(error) => {
                    let error = self.placed(&part, error);
                    let _ = part.job.reply.send(Err(error));
                }
            }
        }
        if whole {
            self.load.measured(cost, began.elapsed());
        }
        rest
    }

    /// What the model says. A panic, whose line is in the log by now, costs this request its
    /// answer, and nobody else theirs.
    fn asked<T>(&self, ask: impl FnOnce() -> Result<T, TrainError>) -> Result<T, Unanswered> {
        let found = std::panic::catch_unwind(AssertUnwindSafe(ask));
        found
            .map_err(|_| Unanswered::Failed)?
            .map_err(|error| Unanswered::Refused { place: None, error })
    }

    /// The error, with the place of the question that brings it about where it can be told.
    fn placed(&self, part: &Part, error: Unanswered) -> Unanswered {
        if !matches!(error, Unanswered::Refused { .. }) {
            return error;
        }
        let first = part.job.done.len();
        let wrong = part.asked().iter().enumerate().find_map(|(n, asked)| {
            match self.asked(|| self.answerer.check(asked)) {
                Err(Unanswered::Refused { error, .. }) => Some(Unanswered::Refused {
                    place: Some(first + n),
                    error,
                }),
                _ => None,
            }
        });
        wrong.unwrap_or(error)
    }
}

fn with_routing(
    answerer: &Answerer,
    part: &Part,
    answers: Vec<Answer>,
) -> Result<Vec<Reply>, TrainError> {
    let wanted = &part.job.routing[part.job.done.len()..];
    let rows = answers.into_iter().zip(part.asked()).zip(wanted);
    rows.map(|((answer, asked), wanted)| {
        // A pass of its own for each: not for those who have gone.
        let wanted = *wanted && !part.job.reply.is_closed();
        let routing = wanted.then(|| answerer.routing(&asked.question));
        Ok(Reply {
            answer,
            routing: routing.transpose()?,
        })
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_turns_away_and_a_dead_thread_is_said() {
        let (jobs, incoming) = sync_channel(2);
        let worker = Worker {
            jobs,
            alive: Arc::new(AtomicBool::new(true)),
            load: Arc::default(),
            batching: Batching {
                questions: 1,
                wait: Duration::ZERO,
                queue: 1,
                time: Duration::from_secs(60),
            },
            longest: 1000,
            metrics: Arc::default(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let ask = || worker.ask(Vec::new(), Vec::new());
        runtime.block_on(async {
            let mut waits = Box::pin(ask());
            let still = tokio::time::timeout(Duration::from_millis(10), waits.as_mut());
            assert!(still.await.is_err());
            let turned_away = ask().await;
            assert!(matches!(turned_away, Err(Unanswered::Busy { again: 1 })));
            // Whoever has gone makes room.
            drop(waits);
            let gone = tokio::time::timeout(Duration::from_millis(10), ask());
            assert!(gone.await.is_err());
            drop(incoming);
            assert!(matches!(ask().await, Err(Unanswered::Gone)));
        });
    }
}
