//! Which choice an answer means: an index, a letter, or the choice's own text.

use serde_json::Value;

use super::choices::plain;

/// What stands in the field of the right answer.
pub(super) enum Found {
    /// The index of a choice, beyond doubt.
    Index(usize),
    /// A text that may be read in several ways.
    Text(Candidates),
}

/// How the numbers of a file are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Counting {
    /// 0 is the first choice.
    #[default]
    FromZero,
    /// 1 is the first choice.
    FromOne,
}

impl Counting {
    /// By the number of the first choice, from 0 where it is not known.
    pub(super) fn of(first: Option<usize>) -> Self {
        match first {
            Some(1) => Self::FromOne,
            _ => Self::FromZero,
        }
    }

    /// The number of the first choice.
    pub(super) fn first(self) -> usize {
        match self {
            Self::FromZero => 0,
            Self::FromOne => 1,
        }
    }

    /// The index of the choice that a number means.
    fn index(self, number: usize) -> Option<usize> {
        number.checked_sub(self.first())
    }
}

/// The choices that an answer's text may mean.
pub(super) struct Candidates {
    pub(super) text: String,
    /// By the text as a letter.
    letter: Option<usize>,
    /// By the text as an index.
    index: Option<usize>,
    /// By the text as the choice itself.
    choice: Option<usize>,
    /// Choices of that text.
    alike: usize,
}

impl Found {
    /// Reads the value of an answer's field; none where it says nothing. `labels` are the choices'
    /// own names, `numeric` tells that the choices are numbers themselves.
    pub(super) fn read(
        (field, value): (&str, &Value),
        choices: &[String],
        labels: &[String],
        numeric: bool,
        counting: Counting,
    ) -> Result<Option<Self>, String> {
        // So the Hub marks rows whose answer is kept back.
        if number_of(value) == Some(-1) && !choices.iter().any(|choice| choice == "-1") {
            return Ok(None);
        }
        let once = |name: &str| match labels.iter().filter(|label| *label == name).count() {
            0 | 1 => Ok(()),
            n => Err(format!(
                "{field}: {name:?} is the label of {n} choices: give each its own"
            )),
        };
        // Where the choices are numbers themselves, a number may be one of them.
        if let Value::Number(number) = value
            && !numeric
        {
            once(&number.to_string())?;
            let named = labels.iter().position(|label| *label == number.to_string());
            let index = named.or_else(|| counting.index(whole(number)?));
            let first = counting.first();
            let wrong = || format!("{field}: expected an index from {first}, got {number}");
            return index.map(|i| Some(Self::Index(i))).ok_or_else(wrong);
        }
        let text = plain(field, value)?;
        if text.is_empty() {
            return Ok(None);
        }
        if let Some(index) = labels.iter().position(|label| *label == text) {
            once(&text)?;
            return Ok(Some(Self::Index(index)));
        }
        let letter = match text.as_bytes() {
            [letter] if letter.is_ascii_alphabetic() => {
                Some(usize::from(letter.to_ascii_uppercase() - b'A'))
            }
            _ => None,
        };
        let index = number(value).and_then(|number| counting.index(number));
        let inside = |index: &usize| *index < choices.len();
        Ok(Some(Self::Text(Candidates {
            letter: letter.filter(inside),
            index: index.filter(inside),
            choice: choices.iter().position(|choice| *choice == text),
            alike: choices.iter().filter(|choice| **choice == text).count(),
            text,
        })))
    }
}

impl Candidates {
    /// The ways in which the text means a choice at all.
    pub(super) fn readings(&self) -> Readings {
        Readings {
            letter: self.letter.is_some(),
            index: self.index.is_some(),
            choice: self.choice.is_some(),
        }
    }

    /// How many choices have the text, where nothing but their text tells which is meant.
    pub(super) fn alike(&self, readings: Option<Readings>) -> usize {
        let ways = readings.unwrap_or(Readings::ALL);
        let otherwise =
            (ways.letter && self.letter.is_some()) || (ways.index && self.index.is_some());
        match otherwise {
            true => 1,
            false => self.alike,
        }
    }

    /// The distinct choices that the text means, each with the way to it. `readings` are the ways
    /// that hold for the whole file, if that is known.
    pub(super) fn means(&self, readings: Option<Readings>) -> Vec<(usize, &'static str)> {
        let ways = readings.unwrap_or(Readings::ALL);
        let mut means: Vec<(usize, &'static str)> = Vec::new();
        for (holds, found, way) in [
            (ways.choice, self.choice, "a choice"),
            (ways.letter, self.letter, "a letter"),
            (ways.index, self.index, "an index"),
        ] {
            let new = found.filter(|found| holds && means.iter().all(|(known, _)| known != found));
            means.extend(new.map(|found| (found, way)));
        }
        means
    }
}

/// Ways of reading the answers of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Readings {
    letter: bool,
    index: bool,
    choice: bool,
}

impl Readings {
    pub(super) const ALL: Self = Self {
        letter: true,
        index: true,
        choice: true,
    };

    pub(super) fn and(self, other: Self) -> Self {
        Self {
            letter: self.letter && other.letter,
            index: self.index && other.index,
            choice: self.choice && other.choice,
        }
    }

    pub(super) fn any(self) -> bool {
        self.letter || self.index || self.choice
    }
}

/// The answers of files as numbers, from which it follows how they count.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    /// Some answer is a number from 1 to that of the last choice.
    any: bool,
    /// Some answer is 0.
    zero: bool,
    /// Some answer is no number of a choice, or choices have names of their own.
    other: bool,
    /// Some answer is the number of the last choice.
    last: bool,
}

impl Numbers {
    /// Takes in the value of a row that has one, with the row's choices.
    pub(super) fn see(&mut self, value: &Value, choices: &[String]) {
        let own = |text: &str| choices.iter().any(|choice| choice == text);
        match number(value) {
            // A number that is a choice's own text tells nothing.
            Some(n @ 1..) if n <= choices.len() => {
                self.any = true;
                self.last |= n == choices.len() && !own(&n.to_string());
            }
            Some(0) => self.zero = true,
            _ => self.other = true,
        }
    }

    /// Takes in a row whose choices have names of their own.
    pub(super) fn see_named(&mut self) {
        self.other = true;
    }

    /// The number of the first choice, where the answers tell it: 0 if some are 0; 1 if every
    /// answer is a number, none is 0, and some are the number of the last choice.
    pub(super) fn first(&self) -> Option<usize> {
        match self.zero {
            true => Some(0),
            false => (self.last && !self.other).then_some(1),
        }
    }

    /// Whether both ways to count fit: all answers are numbers, none is 0 and none the number of
    /// the last choice.
    pub(super) fn is_ambiguous(&self) -> bool {
        self.any && !(self.zero || self.other || self.last)
    }
}

fn number_of(value: &Value) -> Option<i64> {
    match value {
        Value::String(text) => text.trim().parse().ok(),
        value => value.as_i64(),
    }
}

/// A value as a number of a choice.
fn number(value: &Value) -> Option<usize> {
    match value {
        Value::Number(number) => whole(number),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// A number as an index. Columns with gaps hold 1.0 for 1.
fn whole(number: &serde_json::Number) -> Option<usize> {
    let float = |n: &serde_json::Number| {
        let n = n.as_f64()?;
        (n.fract() == 0.0 && (0.0..1e6).contains(&n)).then_some(n as usize)
    };
    let index = number.as_u64().and_then(|i| usize::try_from(i).ok());
    index.or_else(|| float(number))
}
