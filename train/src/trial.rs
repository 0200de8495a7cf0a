//! A base model tried on a few questions, put in every way that is open, before anything is
//! trained: a small model that is at chance by letters may know the answers' texts.

use data::MultipleChoice;
use data::chat::ChatMode;
use data::prompt::LabelStyle;
use data::rendering::Rendering;

use crate::config::RunConfig;
use crate::context::Setup;
use crate::error::TrainError;
use crate::export::start;
use crate::fitted::{LoadedRun, QuestionSet};
use crate::metric::{accuracy, negative_log_likelihood};
use crate::prediction::ScoredRow;
use crate::prepare::{draw_shots, open};
use crate::way::{Free, Trial, Tried, Way};

/// Questions that a model is tried on.
pub const QUESTIONS: usize = 50;

/// With fewer questions nothing is tried: they would tell nothing.
pub const FEWEST: usize = 20;

/// Tries the base model on at most `wanted` of the questions, evenly spaced, in each way that is
/// free. None where there are too few questions, or no choice of ways: open-ended questions, and
/// those whose choices are the answer's words.
///
/// # Errors
/// A model that is nowhere or damaged, a probability that is no number, or a stop on request.
pub fn try_ways(
    config: &RunConfig,
    setup: &Setup,
    free: Free,
    questions: &[MultipleChoice],
    wanted: usize,
) -> Result<Option<Trial>, TrainError> {
    if wanted == 0 || questions.len() < FEWEST {
        return Ok(None);
    }
    let mut with_chat = config.clone();
    if free.chat {
        with_chat.data.chat = ChatMode::Auto;
    }
    let mut prepared = open(&with_chat, &setup.finder)?;
    let brought = start::shots(config)?;
    prepared.show(brought.or_else(|| draw_shots(config, questions)));
    if prepared.rendering().labels != LabelStyle::Letter {
        return Ok(None);
    }
    let questions = spaced(questions, wanted);
    let has_passage = questions.iter().any(|question| question.passage.is_some());
    let mut asked = Vec::new();
    let mut askable = vec![true; questions.len()];
    for way in free.ways(config, has_passage, prepared.chat().is_some()) {
        let settings = way.applied(config);
        let own = prepared.rendering().clone();
        let rendering = Rendering {
            chat: own.chat.filter(|_| way.chat == ChatMode::Auto),
            shots: own.shots,
            ..settings.rendering(own.labels)
        };
        // A way in which the model cannot be asked at all is none, such as letters that are not
        // one token.
        let Ok((encoded, unaskable)) = prepared.encode_as(&questions, &rendering) else {
            continue;
        };
        for one in unaskable {
            let place = one.id.parse::<usize>().ok();
            if let Some(found) = place.and_then(|place| askable.get_mut(place)) {
                *found = false;
            }
        }
        asked.push((way, settings, encoded));
    }
    let both = askable.iter().filter(|askable| **askable).count();
    if asked.len() < 2 || both < FEWEST {
        return Ok(None);
    }
    for (_, _, encoded) in &mut asked {
        encoded.retain(|question| {
            let place = question.id.parse::<usize>();
            place.is_ok_and(|place| askable[place])
        });
    }
    let longest = asked.iter().flat_map(|(_, _, encoded)| encoded);
    let positions = longest.map(|question| question.positions() + 1).max();
    let base = prepared.load_for(config, positions.unwrap_or(1), &setup.device)?;
    let run = LoadedRun::new(config, setup, prepared, base.clone(), vec![base], None)?;
    let mut ways = Vec::new();
    for (way, settings, encoded) in &asked {
        let set = QuestionSet {
            name: "trial",
            config: settings,
            prepared: &run.prepared,
            questions: encoded,
            texts: &[],
        };
        let rows = run.score_base(&format!("base model, {way}"), &set)?.rows;
        ways.push(figures(*way, &rows));
    }
    Ok(Some(Trial {
        questions: both,
        ways,
    }))
}

fn figures(way: Way, rows: &[ScoredRow]) -> Tried {
    let n = rows.len().max(1) as f64;
    let losses = rows.iter().map(negative_log_likelihood);
    Tried {
        way,
        accuracy: accuracy(rows),
        negative_log_likelihood: losses.sum::<f64>() / n,
    }
}

/// So many questions, evenly spaced, named by their places.
fn spaced(questions: &[MultipleChoice], wanted: usize) -> Vec<MultipleChoice> {
    let wanted = wanted.min(questions.len());
    (0..wanted)
        .map(|place| MultipleChoice {
            id: place.to_string(),
            ..questions[place * questions.len() / wanted].clone()
        })
        .collect()
}
