//! How much is asked for and how long it takes: what may be promised to a new request.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use train::answering::Asked;

use super::outcome::Unanswered;

/// Speeds that are looked back on.
const SPEEDS: usize = 32;
/// Seconds after which a speed is not held against a request any more: the machine may have been
/// busy with something else.
const MEMORY: Duration = Duration::from_secs(60);
/// What a question costs beside its characters: the prompt's fixed part.
const FIXED: u64 = 60;

/// The work of a question, about the characters that the model reads for it. A prompt holds
/// `longest` at most.
pub(super) fn cost(asked: &Asked, routing: bool, longest: usize) -> u64 {
    let question = &asked.question;
    let passage = question.passage.as_deref().unwrap_or_default();
    let text = (question.question.len() + passage.len()).min(longest);
    let choices: usize = question.choices.iter().map(String::len).sum();
    let passes = 1 + u64::from(routing);
    passes * (FIXED + (text + choices) as u64)
}

/// The requests that wait for the model, and how fast it is.
#[derive(Debug, Default)]
pub(super) struct Load(Mutex<Account>);

#[derive(Debug, Default)]
struct Account {
    requests: HashMap<u64, Arc<AtomicU64>>,
    next: u64,
    /// Seconds for each unit of cost.
    speeds: VecDeque<(Instant, f64)>,
    last: Option<f64>,
}

/// The place of an admitted request. Dropping it, whatever became of the request, makes room.
#[derive(Debug)]
pub(super) struct Ticket {
    load: Arc<Load>,
    number: u64,
    /// Cost of the questions that are not answered yet.
    pub(super) left: Arc<AtomicU64>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.load.account().requests.remove(&self.number);
    }
}

impl Account {
    /// Seconds for each unit of cost, at best: the fastest of late, once there are two, since the
    /// first pass of a process is slow.
    fn fastest(&self) -> Option<f64> {
        let now = Instant::now();
        let late = self.speeds.iter().filter(|(at, _)| now - *at < MEMORY);
        let late: Vec<f64> = late.map(|(_, speed)| *speed).collect();
        let fastest = late.iter().copied().reduce(f64::min);
        fastest.filter(|_| late.len() > 1)
    }

    /// Seconds until a request of such a cost is answered, by turns with those that wait.
    fn turns(&self, cost: u64, speed: f64) -> f64 {
        let lefts = self
            .requests
            .values()
            .map(|left| left.load(Ordering::Relaxed));
        speed * (cost + lefts.map(|left| left.min(cost)).sum::<u64>()) as f64
    }
}

impl Load {
    fn account(&self) -> MutexGuard<'_, Account> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Admits a request of such a cost, if at most `queue` wait and, at the best speed seen of
    /// late, it can be answered in time.
    ///
    /// # Errors
    /// Too many requests, or too much work: alone, or for now.
    pub(super) fn admit(
        self: &Arc<Self>,
        cost: u64,
        queue: usize,
        time: Duration,
    ) -> Result<Ticket, Unanswered> {
        let mut account = self.account();
        let speed = account.fastest();
        let limit = time.as_secs_f64();
        let again = |seconds: f64| seconds.clamp(1.0, limit.max(1.0)).ceil() as u64;
        if let Some(alone) = speed.map(|speed| speed * cost as f64)
            && alone > limit
        {
            return Err(Unanswered::TooMuch {
                seconds: alone.ceil() as u64,
                limit: time.as_secs(),
            });
        }
        let seconds = speed.map_or(0.0, |speed| account.turns(cost, speed));
        if account.requests.len() >= queue {
            return Err(Unanswered::Busy {
                again: again(seconds / account.requests.len() as f64),
            });
        }
        if seconds > limit {
            return Err(Unanswered::Busy {
                again: again(seconds - limit),
            });
        }
        let number = account.next;
        account.next += 1;
        let left = Arc::new(AtomicU64::new(cost));
        account.requests.insert(number, left.clone());
        Ok(Ticket {
            load: self.clone(),
            number,
            left,
        })
    }

    /// Takes note of a pass.
    pub(super) fn measured(&self, cost: u64, taken: Duration) {
        let mut account = self.account();
        let speed = taken.as_secs_f64() / cost.max(1) as f64;
        account.last = Some(speed);
        account.speeds.push_back((Instant::now(), speed));
        if account.speeds.len() > SPEEDS {
            account.speeds.pop_front();
        }
    }

    /// The cost that one pass may have, to last about so long. Before the first pass, that of a
    /// short question.
    pub(super) fn slice(&self, lasting: Duration) -> u64 {
        let last = self.account().last;
        last.map_or(FIXED, |speed| (lasting.as_secs_f64() / speed) as u64)
    }

    /// Whether work of such a cost can be done before `until`, at the best speed seen of late.
    pub(super) fn in_time(&self, cost: u64, until: Instant) -> bool {
        let time = until.saturating_duration_since(Instant::now());
        let speed = self.account().fastest();
        speed.is_none_or(|speed| speed * cost as f64 <= time.as_secs_f64())
    }

    /// Seconds after which it makes sense to ask again.
    pub(super) fn again(&self, limit: Duration) -> u64 {
        let account = self.account();
        let seconds = account
            .last
            .map_or(1.0, |speed| account.turns(FIXED, speed));
        seconds.clamp(1.0, limit.as_secs_f64().max(1.0)).ceil() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn seconds_of(refused: Result<Ticket, Unanswered>) -> (bool, u64) {
        match refused.unwrap_err() {
            Unanswered::TooMuch { seconds, .. } => (true, seconds),
            Unanswered::Busy { again } => (false, again),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_cannot_be_answered_in_time_is_refused_once_the_speed_is_known() {
        let load = Arc::new(Load::default());
        // Nothing is known yet, and after one pass only how slow the first one is.
        drop(load.admit(1 << 40, 2, MINUTE).unwrap());
        load.measured(100, Duration::from_secs(100));
        drop(load.admit(1000, 2, MINUTE).unwrap());
        load.measured(100, Duration::from_secs(10));
        // 0.1 s for each unit: 600 is a minute.
        assert_eq!(seconds_of(load.admit(700, 2, MINUTE)), (true, 70));
        let long = load.admit(500, 2, MINUTE).unwrap();
        // Alone it would be 45 s; by turns with the long one it is 90.
        assert_eq!(seconds_of(load.admit(450, 2, MINUTE)), (false, 30));
        // A short one waits for its own turns only.
        let short = load.admit(20, 2, MINUTE).unwrap();
        assert_eq!(seconds_of(load.admit(20, 2, MINUTE)), (false, 3));
        // What is answered, and who has gone, makes room.
        long.left.store(0, Ordering::Relaxed);
        drop(short);
        drop(load.admit(590, 2, MINUTE).unwrap());
        assert_eq!(load.slice(Duration::from_secs(1)), 10);
        let soon = Instant::now() + Duration::from_secs(5);
        assert!(load.in_time(40, soon) && !load.in_time(60, soon));
    }
}
