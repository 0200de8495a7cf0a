//! The one thread that owns the model: questions of concurrent requests are asked together.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::oneshot;
use train::TrainError;
use train::answering::{Answer, Answerer, Asked, RouterShare};

use super::metrics::Metrics;

/// Limits of putting requests together in one forward pass.
#[derive(Debug, Clone, Copy)]
pub struct Batching {
    /// Questions asked together at most.
    pub questions: usize,
    /// How long the first request waits for others.
    pub wait: Duration,
    /// Requests that may wait. More are turned away.
    pub queue: usize,
}

/// An answer, with the routing where it was asked for.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Reply {
    /// The answer to the question.
    #[serde(flatten)]
    pub answer: Answer,
    /// How every router spread the question; absent where it was not asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub routing: Option<Vec<RouterShare>>,
}

/// A request's questions and where their answers go.
struct Job {
    asked: Vec<Asked>,
    /// For each question, whether its routing is wanted too.
    routing: Vec<bool>,
    reply: oneshot::Sender<Result<Vec<Reply>, TrainError>>,
}

/// Why a request gets no answer.
#[derive(Debug)]
pub enum Unanswered {
    /// Too many requests wait already.
    Busy,
    /// The thread that owns the model is gone.
    Gone,
    /// The question cannot be put.
    Refused(TrainError),
}

/// Passes questions to the thread that owns the model.
#[derive(Debug, Clone)]
pub struct Worker {
    jobs: SyncSender<Job>,
    alive: Arc<AtomicBool>,
    metrics: Arc<Metrics>,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job")
            .field("asked", &self.asked.len())
            .finish_non_exhaustive()
    }
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
        let measured = metrics.clone();
        let thread = std::thread::spawn(move || {
            let _mark = mark;
            match open() {
                Err(error) => drop(ready.send(Err(error))),
                Ok(answerer) => {
                    drop(ready.send(Ok(describe(&answerer))));
                    work(&answerer, &incoming, batching, &measured);
                }
            }
        });
        let gone = |_| {
            Err(TrainError::Training(
                "the model's thread ended before it began".into(),
            ))
        };
        let said = is_ready.recv().unwrap_or_else(gone)?;
        let worker = Self {
            jobs,
            alive,
            metrics,
        };
        Ok((worker, said, thread))
    }

    /// Whether the thread still answers.
    pub fn is_alive(&self) -> bool {
        self.alive.load(Ordering::SeqCst)
    }

    /// Asks questions; several callers' are put together.
    ///
    /// # Errors
    /// A full queue, a thread that is gone, or a question that cannot be put.
    pub async fn ask(
        &self,
        asked: Vec<Asked>,
        routing: Vec<bool>,
    ) -> Result<Vec<Reply>, Unanswered> {
        let (reply, answer) = oneshot::channel();
        let job = Job {
            asked,
            routing,
            reply,
        };
        self.jobs.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => Unanswered::Busy,
            TrySendError::Disconnected(_) => Unanswered::Gone,
        })?;
        self.metrics.waiting.inc();
        answer
            .await
            .map_err(|_| Unanswered::Gone)?
            .map_err(Unanswered::Refused)
    }
}

/// Answers until nobody can ask any more.
fn work(answerer: &Answerer, jobs: &Receiver<Job>, batching: Batching, metrics: &Metrics) {
    let mut left_over = None;
    while let Some(first) = left_over.take().or_else(|| jobs.recv().ok()) {
        let mut batch = vec![first];
        let until = Instant::now() + batching.wait;
        let mut count = batch[0].asked.len();
        while count < batching.questions {
            let wait = until.saturating_duration_since(Instant::now());
            match jobs.recv_timeout(wait) {
                Ok(job) if count + job.asked.len() <= batching.questions => {
                    count += job.asked.len();
                    batch.push(job);
                }
                Ok(job) => {
                    left_over = Some(job);
                    break;
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
        metrics.waiting.dec_by(batch.len() as i64);
        // Whoever has gone (a time-out, a closed connection) needs no answer.
        batch.retain(|job| !job.reply.is_closed());
        answer(answerer, batch, metrics);
    }
}

fn answer(answerer: &Answerer, batch: Vec<Job>, metrics: &Metrics) {
    let asked: Vec<Asked> = batch.iter().flat_map(|job| job.asked.clone()).collect();
    if asked.is_empty() {
        return;
    }
    metrics.batch.observe(asked.len() as f64);
    let began = Instant::now();
    let together = answerer.answer(&asked);
    metrics.model_seconds.observe(began.elapsed().as_secs_f64());
    let mut together = match together {
        Ok(answers) => Some(answers.into_iter()),
        // One question that cannot be put must not cost the others theirs.
        Err(_) if batch.len() > 1 => None,
        Err(error) => {
            if let Some(job) = batch.into_iter().next() {
                let _ = job.reply.send(Err(error));
            }
            return;
        }
    };
    for job in batch {
        let answers = match &mut together {
            Some(answers) => Ok(answers.by_ref().take(job.asked.len()).collect()),
            None => answerer.answer(&job.asked),
        };
        let replies =
            answers.and_then(|answers: Vec<Answer>| with_routing(answerer, &job, answers));
        if let Ok(replies) = &replies {
            replies
                .iter()
                .for_each(|reply| metrics.answered(&reply.answer));
        }
        let _ = job.reply.send(replies);
    }
}

fn with_routing(
    answerer: &Answerer,
    job: &Job,
    answers: Vec<Answer>,
) -> Result<Vec<Reply>, TrainError> {
    let rows = answers.into_iter().zip(&job.asked).zip(&job.routing);
    rows.map(|((answer, asked), wanted)| {
        // A pass of its own for each: not for those who have gone.
        let wanted = *wanted && !job.reply.is_closed();
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
        let (jobs, incoming) = sync_channel(1);
        let worker = Worker {
            jobs,
            alive: Arc::new(AtomicBool::new(true)),
            metrics: Arc::default(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let waits = tokio::time::timeout(
                Duration::from_millis(10),
                worker.ask(Vec::new(), Vec::new()),
            );
            assert!(waits.await.is_err());
            assert!(matches!(
                worker.ask(Vec::new(), Vec::new()).await,
                Err(Unanswered::Busy)
            ));
            drop(incoming);
            assert!(matches!(
                worker.ask(Vec::new(), Vec::new()).await,
                Err(Unanswered::Gone)
            ));
        });
    }
}
