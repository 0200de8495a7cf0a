//! What goes wrong in a training although it goes on: seen in its numbers, said in log, dashboard
//! and report.

use std::collections::{BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use crate::prediction::ScoredRow;
use crate::tracker::MetricsLine;

/// What an alarm is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlarmKind {
    /// Experts that are never chosen.
    DeadExperts,
    /// Routers that prefer no expert, or one so much that the others' probability is nothing.
    CollapsedRouters,
    /// One choice is given to almost every question.
    OneChoice,
    /// The loss is higher than it was at the beginning.
    RisingLoss,
    /// A gradient far larger than those before.
    GradientSpike,
    /// A loss or gradient that is no number.
    NotFinite,
}

/// An alarm of a training: a line of `alarms.jsonl`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alarm {
    /// The optimizer step that raised it, from 1.
    pub step: usize,
    /// What it is about.
    pub kind: AlarmKind,
    /// What was seen, and what to do.
    pub message: String,
}

impl std::fmt::Display for Alarm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "step {}: {}", self.step, self.message)
    }
}

/// Below this share of an epoch's tokens an expert is dead.
const DEAD: f64 = 0.01;
/// How near the mean FLU is to that of routers without a preference, or to 1, relatively.
const COLLAPSED: f64 = 0.01;
/// Share of one choice among the answers.
const ONE_CHOICE: f64 = 0.95;
/// Fewest answers that a share of choices is taken of.
const ANSWERS: usize = 100;
/// Optimizer steps of a look back, and those before the first one.
const STEPS: usize = 50;
/// Losses at the beginning and now that are compared.
const LOSSES: usize = 10;
/// Fewest steps that tell whether an expert is dead.
const EPOCH: usize = 10;
/// Times the median of the last gradients' norms.
const SPIKE: f64 = 10.0;
/// Fewest norms that a median is taken of.
const NORMS: usize = 20;

/// One optimizer step, as far as alarms look at it.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// Number of the step, from 1.
    pub step: usize,
    /// The loss.
    pub loss: f64,
    /// Mean FLU; absent without routers.
    pub flu: Option<f64>,
    /// Norm of the whole gradient, before it was clipped.
    pub gradient_norm: Option<f64>,
    /// The step's answers.
    pub rows: &'a [ScoredRow],
    /// Share of kept tokens by router and expert.
    pub expert_load: &'a [Vec<f64>],
}

/// Watches the steps of one training.
#[derive(Debug, Clone, Default)]
pub struct Watch {
    steps_per_epoch: usize,
    total_steps: usize,
    /// FLU of routers without a preference; absent without routers.
    even: Option<f64>,
    first_losses: Vec<f64>,
    losses: VecDeque<f64>,
    norms: VecDeque<f64>,
    flu: VecDeque<f64>,
    /// Each answer, and the right one.
    answers: VecDeque<[usize; 2]>,
    /// Sums over the steps of the epoch that were seen.
    load: Vec<Vec<f64>>,
    load_steps: usize,
    /// Alarms that are on: each is said when it comes, not as long as it stays.
    on: BTreeSet<AlarmKind>,
}

impl Watch {
    /// Watches a training of so many steps. `routers` is the number of chosen and of all experts.
    /// `before` are the lines of its earlier sessions.
    pub fn new(
        steps_per_epoch: usize,
        total_steps: usize,
        routers: Option<(usize, usize)>,
        before: &[MetricsLine],
    ) -> Self {
        let mut watch = Self {
            steps_per_epoch: steps_per_epoch.max(1),
            total_steps,
            even: routers.map(|(chosen, all)| chosen as f64 / all as f64),
            ..Self::default()
        };
        for line in before.iter().filter(|line| line.split == "train") {
            let value = |name: &str| line.values.get(name).and_then(serde_json::Value::as_f64);
            if let Some(loss) = value("loss") {
                // What these three said is on: they do not say it again. What experts and answers
                // did is in no line, so that theirs may come twice.
                let norm = value("gradient_norm");
                let _ = watch.spiked(line.step, norm);
                watch.keep(loss, value("flu"), norm);
                let _ = watch.collapsed(line.step);
                let _ = watch.risen(line.step);
            }
        }
        watch
    }

    /// Optimizer steps of an epoch.
    pub fn steps_per_epoch(&self) -> usize {
        self.steps_per_epoch
    }

    fn epoch_ends(&self, step: usize) -> bool {
        step.is_multiple_of(self.steps_per_epoch) || step == self.total_steps
    }

    fn spiked(&mut self, step: usize, norm: Option<f64>) -> Option<Alarm> {
        let spike = norm.and_then(|norm| self.spike(norm));
        self.edge(AlarmKind::GradientSpike, step, spike)
    }

    /// Whether it is time to look at routers and answers.
    fn is_time(&self, step: usize) -> bool {
        (self.epoch_ends(step) || step.is_multiple_of(STEPS)) && step >= STEPS
    }

    fn collapsed(&mut self, step: usize) -> Option<Alarm> {
        if !self.is_time(step) {
            return None;
        }
        let routers = self.collapsed_routers();
        self.edge(AlarmKind::CollapsedRouters, step, routers)
    }

    fn risen(&mut self, step: usize) -> Option<Alarm> {
        if step < STEPS {
            return None;
        }
        let loss = self.rising_loss();
        self.edge(AlarmKind::RisingLoss, step, loss)
    }

    fn keep(&mut self, loss: f64, flu: Option<f64>, gradient_norm: Option<f64>) {
        if self.first_losses.len() < LOSSES {
            self.first_losses.push(loss);
        }
        push(&mut self.losses, loss, LOSSES);
        if let Some(flu) = flu {
            push(&mut self.flu, flu, STEPS);
        }
        if let Some(norm) = gradient_norm {
            push(&mut self.norms, norm, STEPS);
        }
    }

    /// The alarms that a step raises.
    pub fn observe(&mut self, seen: &Seen) -> Vec<Alarm> {
        let Seen { step, .. } = *seen;
        let mut found = Vec::new();
        found.extend(self.spiked(step, seen.gradient_norm));
        self.keep(seen.loss, seen.flu, seen.gradient_norm);
        for row in seen.rows.iter().filter(|row| row.written.is_none()) {
            let answer = [row.prediction(), row.label];
            push(&mut self.answers, answer, 4 * ANSWERS);
        }
        self.add_load(seen.expert_load);
        if self.epoch_ends(step) {
            let dead = self.dead_experts();
            found.extend(self.edge(AlarmKind::DeadExperts, step, dead));
            self.load_steps = 0;
            self.load.clear();
        }
        found.extend(self.collapsed(step));
        if self.is_time(step) {
            let choice = self.one_choice();
            found.extend(self.edge(AlarmKind::OneChoice, step, choice));
        }
        found.extend(self.risen(step));
        found
    }

    /// An alarm when it comes on.
    fn edge(&mut self, kind: AlarmKind, step: usize, message: Option<String>) -> Option<Alarm> {
        let Some(message) = message else {
            self.on.remove(&kind);
            return None;
        };
        self.on.insert(kind).then_some(Alarm {
            step,
            kind,
            message,
        })
    }

    fn spike(&self, norm: f64) -> Option<String> {
        let mut before: Vec<f64> = self.norms.iter().copied().collect();
        if before.len() < NORMS {
            return None;
        }
        before.sort_by(f64::total_cmp);
        let median = before[before.len() / 2];
        (norm > SPIKE * median).then(|| {
            format!(
                "the gradient's norm is {norm:.3}, {:.0} times the median of the last {}: lower train.learning_rate or set train.gradient_clip",
                norm / median.max(f64::MIN_POSITIVE),
                before.len()
            )
        })
    }

    fn add_load(&mut self, load: &[Vec<f64>]) {
        if load.is_empty() {
            return;
        }
        if self.load.len() != load.len() {
            self.load = vec![vec![0.0; load[0].len()]; load.len()];
            self.load_steps = 0;
        }
        for (sums, shares) in self.load.iter_mut().zip(load) {
            for (sum, share) in sums.iter_mut().zip(shares) {
                *sum += share;
            }
        }
        self.load_steps += 1;
    }

    /// Looks at an epoch of which at least half was seen in this session.
    fn dead_experts(&self) -> Option<String> {
        const SHOWN: usize = 3;
        let expected = self.steps_per_epoch.min(self.total_steps.max(1));
        if self.load_steps < EPOCH.max(expected.div_ceil(2)) {
            return None;
        }
        let steps = self.load_steps as f64;
        let dead_of = |sums: &Vec<f64>| -> Vec<String> {
            let experts = sums.iter().enumerate();
            let dead = experts.filter(|(_, sum)| **sum / steps < DEAD);
            dead.map(|(expert, _)| expert.to_string()).collect()
        };
        let routers: Vec<(usize, Vec<String>)> =
            self.load.iter().map(dead_of).enumerate().collect();
        let with: Vec<_> = routers
            .iter()
            .filter(|(_, dead)| !dead.is_empty())
            .collect();
        let count: usize = with.iter().map(|(_, dead)| dead.len()).sum();
        let all: usize = self.load.iter().map(Vec::len).sum();
        let named: Vec<String> = with
            .iter()
            .take(SHOWN)
            .map(|(router, dead)| format!("router {router}: {}", dead.join(", ")))
            .collect();
        let more = match with.len() > SHOWN {
            true => format!("; {} more routers", with.len() - SHOWN),
            false => String::new(),
        };
        (count > 0).then(|| {
            format!(
                "{count} of {all} experts got under 1 % of their router's tokens over the epoch ({}{more}): raise objective.load_balancing_weight",
                named.join("; ")
            )
        })
    }

    fn collapsed_routers(&self) -> Option<String> {
        let even = self.even.filter(|even| *even < 1.0)?;
        if self.flu.is_empty() {
            return None;
        }
        let mean = self.flu.iter().sum::<f64>() / self.flu.len() as f64;
        let near = |value: f64| (mean - value).abs() <= COLLAPSED * value;
        if near(1.0) {
            return Some(format!(
                "FLU is {mean:.3}, almost 1: the routers give the other experts almost nothing, so FLU cannot tell answers apart; lower train.learning_rate or train.router_rate_factor"
            ));
        }
        near(even).then(|| {
            format!(
                "FLU is {mean:.3}, that of routers without a preference ({even:.3}): it cannot tell answers apart; train longer, or raise objective.calibration_weight"
            )
        })
    }

    fn one_choice(&self) -> Option<String> {
        if self.answers.len() < ANSWERS {
            return None;
        }
        let n = self.answers.len() as f64;
        let share = |of: usize, choice: usize| {
            self.answers.iter().filter(|a| a[of] == choice).count() as f64 / n
        };
        let choices = self.answers.iter().map(|[said, _]| *said).max()? + 1;
        let (most, said) = (0..choices)
            .map(|choice| (choice, share(0, choice)))
            .max_by(|a, b| a.1.total_cmp(&b.1))?;
        let right = share(1, most);
        // Where the questions themselves have one answer, giving it is no fault.
        (said > ONE_CHOICE && right < ONE_CHOICE).then(|| {
            format!(
                "the model answers choice {} on {:.0} % of the last {n:.0} training questions, but that is right on {:.0} %: it ignores them; try another data.template, data.scoring = \"cloze\", or another train.learning_rate",
                most + 1,
                100.0 * said,
                100.0 * right
            )
        })
    }

    /// The mean of the last losses is above that of the first by more than twice the standard
    /// error of the difference.
    fn rising_loss(&self) -> Option<String> {
        if self.losses.len() < LOSSES || self.first_losses.len() < LOSSES {
            return None;
        }
        let now: Vec<f64> = self.losses.iter().copied().collect();
        let moments = |values: &[f64]| {
            let n = values.len() as f64;
            let mean = values.iter().sum::<f64>() / n;
            let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
            (mean, squares / (n - 1.0) / n)
        };
        let ((first, a), (last, b)) = (moments(&self.first_losses), moments(&now));
        (last > first && last - first > 2.0 * (a + b).sqrt()).then(|| {
            format!(
                "the loss is {last:.3} over the last {LOSSES} steps and was {first:.3} over the first: lower train.learning_rate, or give it train.warmup_steps"
            )
        })
    }
}

fn push<T>(queue: &mut VecDeque<T>, value: T, most: usize) {
    if queue.len() == most {
        queue.pop_front();
    }
    queue.push_back(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sound step: two choices in turn, falling loss, even load, FLU between its bounds.
    struct Step {
        loss: f64,
        flu: Option<f64>,
        norm: f64,
        rows: Vec<ScoredRow>,
        load: Vec<Vec<f64>>,
    }

    fn answers(said: impl Fn(usize) -> usize) -> Vec<ScoredRow> {
        (0..8)
            .map(|i| {
                let p = if said(i) == 0 { [0.7, 0.3] } else { [0.3, 0.7] };
                ScoredRow::from_probabilities(i.to_string(), i % 2, &p, None)
            })
            .collect()
    }

    fn sound(step: usize) -> Step {
        Step {
            loss: 1.0 / (step as f64).sqrt() + 0.01 * (step % 3) as f64,
            flu: Some(0.4),
            norm: 1.0 + 0.1 * (step % 5) as f64,
            rows: answers(|i| i % 2),
            load: vec![vec![0.25; 4]; 3],
        }
    }

    fn watch(steps: usize, change: impl Fn(usize, &mut Step)) -> Vec<Alarm> {
        let mut watch = Watch::new(60, steps, Some((1, 4)), &[]);
        run(&mut watch, 1..=steps, change)
    }

    fn run(
        watch: &mut Watch,
        steps: std::ops::RangeInclusive<usize>,
        change: impl Fn(usize, &mut Step),
    ) -> Vec<Alarm> {
        let mut alarms = Vec::new();
        for step in steps {
            let mut made = sound(step);
            change(step, &mut made);
            alarms.extend(watch.observe(&Seen {
                step,
                loss: made.loss,
                flu: made.flu,
                gradient_norm: Some(made.norm),
                rows: &made.rows,
                expert_load: &made.load,
            }));
        }
        alarms
    }

    fn kinds(alarms: &[Alarm]) -> Vec<(usize, AlarmKind)> {
        alarms.iter().map(|a| (a.step, a.kind)).collect()
    }

    #[test]
    fn a_sound_training_raises_none() {
        assert_eq!(watch(180, |_, _| {}), []);
    }

    #[test]
    fn an_expert_without_tokens_over_an_epoch_is_named() {
        let found = watch(120, |step, made| {
            if step > 60 {
                made.load[1] = vec![0.5, 0.495, 0.005, 0.0];
            }
        });
        assert_eq!(kinds(&found), [(120, AlarmKind::DeadExperts)]);
        let message = &found[0].message;
        assert!(message.starts_with("2 of 12 experts"), "{message}");
        assert!(message.contains("(router 1: 2, 3)"), "{message}");
        // Over the whole epoch, not in a few steps of it.
        let few = watch(120, |step, made| {
            if step % 10 == 0 {
                made.load[1] = vec![1.0, 0.0, 0.0, 0.0];
            }
        });
        assert_eq!(few, []);
    }

    #[test]
    fn routers_at_either_end_of_flu_have_collapsed() {
        for (flu, collapsed) in [(0.2501, true), (0.26, false), (0.98, false), (0.995, true)] {
            let found = watch(60, |_, made| made.flu = Some(flu));
            let expected: &[_] = match collapsed {
                true => &[(50, AlarmKind::CollapsedRouters)],
                false => &[],
            };
            assert_eq!(kinds(&found), expected, "{flu}");
        }
        let plain = watch(60, |_, made| made.flu = None);
        assert_eq!(plain, []);
    }

    #[test]
    fn one_choice_for_all_questions_is_said_once_and_again_when_it_comes_back() {
        let found = watch(300, |step, made| {
            if !(101..=200).contains(&step) {
                made.rows = answers(|_| 1);
            }
        });
        let expected = [(50, AlarmKind::OneChoice), (250, AlarmKind::OneChoice)];
        assert_eq!(kinds(&found), expected);
        // What is right for all of them is no fault.
        let right = watch(60, |_, made| {
            made.rows = (0..8)
                .map(|i| ScoredRow::from_probabilities(i.to_string(), 0, &[0.9, 0.1], None))
                .collect();
        });
        assert_eq!(right, []);
    }

    #[test]
    fn a_loss_above_its_start_is_seen_after_fifty_steps_in_any_session() {
        let rise = |step: usize, made: &mut Step| {
            if step > 20 {
                made.loss = 2.0 + 0.01 * (step % 3) as f64;
            }
        };
        let found = watch(60, rise);
        assert_eq!(kinds(&found), [(50, AlarmKind::RisingLoss)]);
        // A later session knows where the loss began.
        let line = |step: usize, loss: f64| MetricsLine {
            split: "train".into(),
            step,
            seconds: 0.0,
            values: [("loss".to_string(), loss.into())].into_iter().collect(),
        };
        let lines: Vec<MetricsLine> = (1..=40).map(|step| line(step, sound(step).loss)).collect();
        let mut later = Watch::new(60, 60, Some((1, 4)), &lines);
        let found = run(&mut later, 41..=60, rise);
        assert_eq!(kinds(&found)[0].1, AlarmKind::RisingLoss);
        // And that it was said, as long as it lasts.
        let lines: Vec<MetricsLine> = (1..=55)
            .map(|step| {
                let mut made = sound(step);
                rise(step, &mut made);
                line(step, made.loss)
            })
            .collect();
        let mut later = Watch::new(60, 70, Some((1, 4)), &lines);
        assert_eq!(run(&mut later, 56..=70, rise), []);
    }

    #[test]
    fn a_gradient_ten_times_the_usual_is_a_spike() {
        for (norm, spike) in [(11.0, false), (14.0, true)] {
            let found = watch(40, |step, made| {
                if step == 30 {
                    made.norm = norm;
                }
            });
            let expected: &[_] = match spike {
                true => &[(30, AlarmKind::GradientSpike)],
                false => &[],
            };
            assert_eq!(kinds(&found), expected, "{norm}");
        }
    }
}
