//! Ways of putting questions: wording, scoring, chat template; and what a base model made of them.

use std::fmt;

use data::chat::ChatMode;
use data::rendering::Scoring;
use data::template::Template;
use serde::{Deserialize, Serialize};

use crate::config::{ConfigLayers, RunConfig};

/// A way of putting questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Way {
    /// The wording of the prompt.
    pub template: Template,
    /// How choices are scored.
    pub scoring: Scoring,
    /// Whether the prompt stands in the model's chat template.
    pub chat: ChatMode,
}

impl Way {
    /// The way of these settings.
    pub fn of(config: &RunConfig) -> Self {
        Self {
            template: config.data.template,
            scoring: config.data.scoring,
            chat: config.data.chat,
        }
    }

    /// The same settings with the questions put in this way.
    pub fn applied(self, config: &RunConfig) -> RunConfig {
        let mut config = config.clone();
        config.data.template = self.template;
        config.data.scoring = self.scoring;
        config.data.chat = self.chat;
        config
    }

    /// The assignments that lead from another way to this one.
    pub fn settings(self, from: Self) -> Vec<String> {
        [
            ("template", word(&self.template), word(&from.template)),
            ("scoring", word(&self.scoring), word(&from.scoring)),
            ("chat", word(&self.chat), word(&from.chat)),
        ]
        .into_iter()
        .filter(|(_, own, other)| own != other)
        .map(|(key, own, _)| format!("data.{key}={own}"))
        .collect()
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (template, scoring) = (word(&self.template), word(&self.scoring));
        write!(f, "{scoring}, {template}")?;
        match self.chat {
            ChatMode::Off => Ok(()),
            ChatMode::Auto => f.write_str(", chat"),
        }
    }
}

/// The word by which settings name a value.
fn word(value: &impl Serialize) -> String {
    let value = serde_json::to_value(value).unwrap_or_default();
    value.as_str().unwrap_or_default().to_owned()
}

/// Which parts of a way are free to be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Free {
    /// The wording of the prompt.
    pub template: bool,
    /// How choices are scored.
    pub scoring: bool,
    /// Whether the model's chat template is used.
    pub chat: bool,
}

impl Free {
    /// What a user's own layers of settings leave free: whatever they do not name.
    pub fn of(given: &ConfigLayers) -> Self {
        Self {
            template: !given.has("data.template"),
            scoring: !given.has("data.scoring"),
            chat: !given.has("data.chat"),
        }
    }

    /// Whether anything is free.
    pub fn any(self) -> bool {
        self.template || self.scoring || self.chat
    }

    /// A way whose free parts are another one's.
    pub fn take(self, own: Way, other: Way) -> Way {
        Way {
            template: if self.template {
                other.template
            } else {
                own.template
            },
            scoring: if self.scoring {
                other.scoring
            } else {
                own.scoring
            },
            chat: if self.chat { other.chat } else { own.chat },
        }
    }

    /// Every way that is open to settings, theirs first. A passage is read where questions have
    /// one, a chat template where the model has one.
    pub fn ways(self, config: &RunConfig, has_passage: bool, has_chat: bool) -> Vec<Way> {
        let own = Way::of(config);
        let mut templates = vec![own.template];
        if self.template {
            if has_passage {
                templates.push(Template::Passage);
            }
            // Without a passage, its wording is `moe_peft`.
            if own.template != Template::Passage || has_passage {
                templates.push(Template::MoePeft);
            }
            templates.push(Template::LaplaceLora);
        }
        let scorings = match (self.scoring, own.scoring) {
            (false, own) => vec![own],
            (true, own) => vec![own, other_scoring(own)],
        };
        let chats = match (self.chat && has_chat, own.chat) {
            (false, own) => vec![own],
            (true, ChatMode::Off) => vec![ChatMode::Off, ChatMode::Auto],
            (true, ChatMode::Auto) => vec![ChatMode::Auto, ChatMode::Off],
        };
        let mut ways: Vec<Way> = Vec::new();
        for chat in chats {
            for scoring in &scorings {
                for template in &templates {
                    let way = Way {
                        template: *template,
                        scoring: *scoring,
                        chat,
                    };
                    let reads = |way: &Way| match (way.scoring, way.template) {
                        // A cloze prompt differs by its passage alone.
                        (Scoring::Cloze, Template::Passage) if has_passage => Template::Passage,
                        (Scoring::Cloze, _) => Template::MoePeft,
                        (Scoring::Letters, template) => template,
                    };
                    let alike = |known: &Way| {
                        (known.scoring, known.chat, reads(known))
                            == (way.scoring, way.chat, reads(&way))
                    };
                    if !ways.iter().any(alike) && way.applied(config).validate().is_ok() {
                        ways.push(way);
                    }
                }
            }
        }
        ways
    }
}

fn other_scoring(scoring: Scoring) -> Scoring {
    match scoring {
        Scoring::Letters => Scoring::Cloze,
        Scoring::Cloze => Scoring::Letters,
    }
}

/// What a base model made of questions that were put in one way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tried {
    /// The way.
    #[serde(flatten)]
    pub way: Way,
    /// Share of right answers.
    pub accuracy: f64,
    /// Mean negative logarithm of the right answer's probability.
    pub negative_log_likelihood: f64,
}

/// Several ways tried on the same questions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// Number of questions.
    pub questions: usize,
    /// Every way with its figures, that of the settings first.
    pub ways: Vec<Tried>,
}

impl Trial {
    /// The way with the most right answers; of several, the most likely answers; of several, the
    /// first.
    pub fn best(&self) -> Option<&Tried> {
        self.ways.iter().reduce(|best, next| {
            let better = next.accuracy.total_cmp(&best.accuracy).reverse();
            let likelier = next
                .negative_log_likelihood
                .total_cmp(&best.negative_log_likelihood);
            match better.then(likelier).is_lt() {
                true => next,
                false => best,
            }
        })
    }
}

impl fmt::Display for Trial {
    /// One line a way; a star marks the best.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let best = self.best().map(|best| best.way);
        for (place, tried) in self.ways.iter().enumerate() {
            let mark = if Some(tried.way) == best { '*' } else { ' ' };
            let end = if place + 1 < self.ways.len() {
                "\n"
            } else {
                ""
            };
            write!(
                f,
                "  {mark} {:<30} {:5.1} % right, NLL {:.3}{end}",
                tried.way.to_string(),
                100.0 * tried.accuracy,
                tried.negative_log_likelihood
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Free = Free {
        template: true,
        scoring: true,
        chat: true,
    };

    fn words(free: Free, config: &RunConfig, has_passage: bool, has_chat: bool) -> Vec<String> {
        let ways = free.ways(config, has_passage, has_chat);
        ways.iter().map(Way::to_string).collect()
    }

    #[test]
    fn every_way_that_reads_otherwise_is_open_once_and_the_own_first() {
        let config = RunConfig::default();
        let plain = [
            "letters, moe_peft",
            "letters, laplace_lora",
            "cloze, moe_peft",
        ];
        assert_eq!(words(ALL, &config, false, false), plain);
        let with_chat = words(ALL, &config, false, true);
        assert_eq!(
            (with_chat.len(), &*with_chat[3]),
            (6, "letters, moe_peft, chat")
        );
        let with_passage = words(ALL, &config, true, false);
        assert!(
            with_passage.contains(&"cloze, passage".into()),
            "{with_passage:?}"
        );
        let mut short = config.clone();
        short.data.template = Template::Passage;
        assert_eq!(words(ALL, &short, false, false)[0], "letters, passage");
        assert_eq!(words(ALL, &short, false, false).len(), 3);
        // What is said stays.
        let mut given = ConfigLayers::default();
        given.set("data.scoring=letters").unwrap();
        given.set("data.chat=off").unwrap();
        let free = Free::of(&given);
        assert_eq!(words(free, &config, false, true), plain[..2]);
        // What cannot be run is no way.
        let mut answer = config.clone();
        answer.data.scoring = Scoring::Cloze;
        answer.objective.flu_tokens = crate::functional_uncertainty::FluTokens::Answer;
        assert_eq!(words(ALL, &answer, false, false), ["cloze, moe_peft"]);
    }

    #[test]
    fn the_best_has_most_right_then_the_likeliest_answers_then_stood_first() {
        let tried = |scoring, accuracy, negative_log_likelihood| Tried {
            way: Way {
                scoring,
                ..Way::of(&RunConfig::default())
            },
            accuracy,
            negative_log_likelihood,
        };
        let best = |ways: [(f64, f64); 2]| {
            let [one, two] = ways;
            let trial = Trial {
                questions: 50,
                ways: vec![
                    tried(Scoring::Letters, one.0, one.1),
                    tried(Scoring::Cloze, two.0, two.1),
                ],
            };
            trial.best().unwrap().way.scoring
        };
        assert_eq!(best([(0.2, 1.0), (0.4, 2.0)]), Scoring::Cloze);
        assert_eq!(best([(0.4, 1.4), (0.4, 1.3)]), Scoring::Cloze);
        assert_eq!(best([(0.4, 1.3), (0.4, 1.3)]), Scoring::Letters);
        let [from, to] = [Scoring::Letters, Scoring::Cloze].map(|s| tried(s, 0.0, 0.0).way);
        assert_eq!(to.settings(from), ["data.scoring=cloze"]);
    }
}
