//! What a run needs before its first step: model, questions, and where they came from.

use std::collections::HashSet;
use std::sync::Arc;

use burn::prelude::*;
use burn::tensor::DType;
use data::chat::{ChatMode, ChatTemplate};
use data::check::{CheckedFile, CheckedTokens};
use data::dataset::{Dataset, custom, name_rows};
use data::encoding::Unaskable;
use data::prompt::LabelStyle;
use data::rendering::Rendering;
use data::seed::hash_name;
use data::shots::Shots;
use data::source::models::{self, LocatedModel};
use data::source::{Finder, Located, SourceKind};
use data::split::{SplitOptions, Splits, split, test_only};
use data::{DataError, EncodedQuestion, MultipleChoice, Tokenizer};
use model::load;
use model::load::tiny::RandomWeights;
use model::load::{ModelFiles, Weights};
use model::{Llama, ModelConfig};

use crate::config::{ModelSection, RunConfig};
use crate::error::TrainError;
use crate::loss::cross_entropy::CrossEntropy;
use crate::registry;
use crate::run_directory::{CARD, Digests};
use crate::way::Trial;

mod left_out;
mod positions;
mod size;
mod wordings;

pub use left_out::LeftOut;
pub use wordings::View;

/// Seed of the tiny model's random weights. They stand for pretrained weights, so they do not
/// follow the run's seed.
const TINY_SEED: u64 = 20_241_009;

/// Everything a run needs before its first step, but for the weights.
pub struct Prepared {
    /// The decoder's shape.
    pub model: ModelConfig,
    weights: Box<dyn Weights>,
    pub(crate) model_files: Vec<Located>,
    /// Where the chat template was found, apart from the model's own files: without one, nothing
    /// of it is asked for.
    pub(crate) chat_files: Vec<Located>,
    /// The questions as text.
    pub splits: Splits,
    /// The training questions.
    pub train: Arc<Vec<EncodedQuestion>>,
    /// The held-out questions.
    pub held_out: Vec<EncodedQuestion>,
    /// The test questions.
    pub test: Vec<EncodedQuestion>,
    tokenizer: Tokenizer,
    rendering: Rendering,
    /// Tokens of the longest prompt that the model is given.
    prompt_tokens: usize,
    /// Tokens of the longest answer that is to be written; 0 where none is.
    answer_tokens: usize,
    /// Tokens behind a prompt that its training appends.
    appended: usize,
    /// Questions that cannot be asked and are left out.
    pub left_out: Vec<LeftOut>,
    /// Why the questions are put as they are, where the base model was tried on some first.
    pub trial: Option<Trial>,
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prepared")
            .field("model", &self.model)
            .field("split", &self.splits.account)
            .finish_non_exhaustive()
    }
}

/// Finds model and data, divides and encodes the questions.
///
/// # Errors
/// Files that are nowhere or damaged, labels that are not one token, empty splits.
pub fn prepare(config: &RunConfig, finder: &Finder) -> Result<Prepared, TrainError> {
    prepare_with(config, finder, split, None)
}

/// As [`prepare`], with these examples before the questions in place of drawn ones, where there are
/// some.
///
/// # Errors
/// As [`prepare`].
pub fn prepare_after(
    config: &RunConfig,
    finder: &Finder,
    shots: Option<Shots>,
) -> Result<Prepared, TrainError> {
    prepare_with(config, finder, split, shots)
}

/// Finds the model and the test questions of a dataset alone.
///
/// # Errors
/// As [`prepare`].
pub fn prepare_test(config: &RunConfig, finder: &Finder) -> Result<Prepared, TrainError> {
    prepare_with(config, finder, test_only, None)
}

/// As [`prepare_test`], with a run's own examples before the questions, where it has some.
///
/// # Errors
/// As [`prepare`].
pub fn prepare_test_after(
    config: &RunConfig,
    finder: &Finder,
    shots: Option<Shots>,
) -> Result<Prepared, TrainError> {
    prepare_with(config, finder, test_only, shots)
}

/// The examples that stand before every question, drawn from training questions; none unless
/// settings ask for some.
pub fn draw_shots(config: &RunConfig, train: &[MultipleChoice]) -> Option<Shots> {
    let (count, seed) = (config.data.shots, config.data.split_seed);
    (count > 0).then(|| Shots::draw(train, count, hash_name(seed, "shots")))
}

/// Finds the model alone, for questions that are in memory. The settings of `data.custom` say
/// whether their answers are letters or words; their files are not read. Questions without an id
/// get one, as do those whose id stands before.
///
/// # Errors
/// As [`prepare`]; a split without a question.
pub fn prepare_questions(
    config: &RunConfig,
    finder: &Finder,
    mut splits: Splits,
) -> Result<Prepared, TrainError> {
    for (name, questions) in [
        ("train", &mut splits.train),
        ("held-out", &mut splits.held_out),
        ("test", &mut splits.test),
    ] {
        name_rows(name, questions);
        for question in &*questions {
            question.check().map_err(|reason| DataError::Question {
                id: question.id.clone(),
                reason,
            })?;
        }
        if questions.is_empty() {
            return Err(TrainError::config(name, "no question: give one at least"));
        }
    }
    splits.account.dataset = config.data.title();
    for from in [
        &mut splits.account.held_out_from,
        &mut splits.account.test_from,
    ] {
        if from.is_empty() {
            *from = "memory".into();
        }
    }
    let mut config = config.clone();
    config.data.dataset = custom::NAME.into();
    // A dataset of one's own has a file; this one is never opened.
    config.data.custom.train.get_or_insert("memory".into());
    prepare_with(&config, finder, |_, _, _| Ok(splits), None)
}

fn prepare_with(
    config: &RunConfig,
    finder: &Finder,
    divide: impl FnOnce(&dyn Dataset, &Finder, &SplitOptions) -> Result<Splits, DataError>,
    shots: Option<Shots>,
) -> Result<Prepared, TrainError> {
    let mut prepared = prepare_model(config, finder)?;
    let splits = divide(
        &*config.data.dataset()?,
        finder,
        &SplitOptions {
            held_out_fraction: config.data.held_out_fraction,
            seed: config.data.split_seed,
            train_limit: config.data.train_limit,
            held_out_limit: config.data.held_out_limit,
            test_limit: config.data.test_limit,
        },
    )?;
    let mut splits = splits;
    match shots {
        Some(shots) => prepared.show(Some(shots)),
        None => prepared.show(draw_shots(config, &splits.train)),
    }
    prepared.train = Arc::new(prepared.encode_split("train", &mut splits.train, config)?);
    prepared.held_out = prepared.encode_split("held-out", &mut splits.held_out, config)?;
    prepared.test = prepared.encode_split("test", &mut splits.test, config)?;
    splits.account.used = [&splits.train, &splits.held_out, &splits.test].map(Vec::len);
    prepared.splits = splits;
    Ok(prepared)
}

/// Finds the model alone: for questions that come later.
///
/// # Errors
/// A model that is nowhere or damaged.
pub fn prepare_model(config: &RunConfig, finder: &Finder) -> Result<Prepared, TrainError> {
    let prepared = open(config, finder)?;
    if config.data.chat == ChatMode::Auto && prepared.chat().is_none() {
        tracing::warn!("the model has no chat template: it is asked with the plain prompt");
    }
    Ok(prepared)
}

/// As [`prepare_model`], where a model without a chat template is no surprise.
pub(crate) fn open(config: &RunConfig, finder: &Finder) -> Result<Prepared, TrainError> {
    let ((model, weights), tokenizer, model_files, path) = open_model(config, finder)?;
    let (chat, chat_files) = chat_template(config, path.as_ref(), &tokenizer, finder)?;
    // A loss over the sequence appends the answer's token.
    let appended = usize::from(config.objective.cross_entropy == CrossEntropy::Sequence);
    let labels = config.data.dataset()?.labels();
    let answer_tokens = match labels {
        LabelStyle::Written => config.data.answer_tokens,
        LabelStyle::Letter | LabelStyle::Choice => 0,
    };
    let context = model.max_position_embeddings;
    let positions = context.saturating_sub(appended + answer_tokens);
    if positions == 0 {
        let reason =
            format!("leaves no room for a question: the model takes {context} tokens in all");
        return Err(TrainError::config("data.answer_tokens", reason));
    }
    Ok(Prepared {
        prompt_tokens: config.data.max_tokens.min(positions),
        rendering: Rendering {
            chat: chat.map(Arc::new),
            ..config.rendering(labels)
        },
        answer_tokens,
        appended,
        left_out: Vec::new(),
        trial: None,
        train: Arc::default(),
        held_out: Vec::new(),
        test: Vec::new(),
        splits: Splits::default(),
        model,
        weights,
        model_files,
        chat_files,
        tokenizer,
    })
}

/// The model's chat template, if it is asked for and there is one, with the files beside the model
/// that it came from.
fn chat_template(
    config: &RunConfig,
    model: Option<&LocatedModel>,
    tokenizer: &Tokenizer,
    finder: &Finder,
) -> Result<(Option<ChatTemplate>, Vec<Located>), TrainError> {
    let data = &config.data;
    if data.chat == ChatMode::Off {
        return Ok((None, Vec::new()));
    }
    let (source, files) = match model {
        None => (None, Vec::new()),
        Some(model) => {
            let ModelSection { name, revision, .. } = &config.model;
            let files = models::find_chat_files(name, revision, model, finder)?;
            (load::chat_source(&model.path)?, files)
        }
    };
    let system = data.system.as_deref();
    let Some(source) = source else {
        if system.is_some() {
            let reason = "the model has no chat template, so no place for a system prompt: leave it out, or use an instruct model";
            return Err(TrainError::config("data.system", reason));
        }
        return Ok((None, files));
    };
    if let Some(name) = system.and_then(|text| tokenizer.special_in(text)) {
        let reason = format!("holds the special token {name}: leave it out");
        return Err(TrainError::config("data.system", reason));
    }
    let template = ChatTemplate::new(&source.template, source.special_tokens, system)?;
    Ok((Some(template), files))
}

/// Finds what a finished run needs to answer: the model, and the training questions where its
/// method's fit looks at them. `shots` are the run's examples, which an adapter may have brought.
///
/// # Errors
/// As [`prepare`].
pub fn prepare_finished(
    config: &RunConfig,
    finder: &Finder,
    shots: Option<Shots>,
) -> Result<Prepared, TrainError> {
    match registry::build(config)?.fit_questions() {
        0 => {
            let mut prepared = prepare_model(config, finder)?;
            prepared.show(shots);
            Ok(prepared)
        }
        _ => prepare_after(config, finder, shots),
    }
}

type OpenedModel = (
    (ModelConfig, Box<dyn Weights>),
    Tokenizer,
    Vec<Located>,
    Option<LocatedModel>,
);

fn open_model(config: &RunConfig, finder: &Finder) -> Result<OpenedModel, TrainError> {
    if config.model.name == "tiny" {
        let tokenizer = Tokenizer::tiny();
        let shape = model::load::tiny::config(tokenizer.vocabulary());
        let weights = RandomWeights::new(shape.clone(), TINY_SEED);
        let files = vec![Located {
            path: "tiny".into(),
            source: SourceKind::Bundled,
            origin: "random weights, made up for tests".into(),
            sha256: String::new(),
        }];
        return Ok(((shape, Box::new(weights)), tokenizer, files, None));
    }
    let located = models::find(&config.model.name, &config.model.revision, finder)?;
    // An export lists what it was written as.
    for file in &located.files {
        if let (Some(directory), Some(name)) = (file.path.parent(), file.path.file_name())
            && directory.join(CARD).is_file()
        {
            Digests::of(directory).agrees(&name.to_string_lossy(), &file.sha256)?;
        }
    }
    let ModelFiles {
        config: shape,
        weights,
        tokenizer,
    } = model::load::open(&located.path)?;
    let (tokenizer, files) = (Tokenizer::new(tokenizer), located.files.clone());
    Ok(((shape, weights), tokenizer, files, Some(located)))
}

impl Prepared {
    /// Renders and encodes questions as the run's own.
    ///
    /// # Errors
    /// A label that is not one token, a prompt that is too long, or a tokenizer of another model.
    pub fn encode(&self, questions: &[MultipleChoice]) -> Result<Vec<EncodedQuestion>, TrainError> {
        let encoded =
            self.tokenizer
                .encode_questions(questions, &self.rendering, self.prompt_tokens)?;
        self.check_ids(&encoded)?;
        Ok(encoded)
    }

    /// Puts examples before every question that is encoded from now on.
    pub fn show(&mut self, shots: Option<Shots>) {
        self.rendering.shots = shots.map(Arc::new);
    }

    /// The examples before every question, if there are some.
    pub fn shots(&self) -> Option<&Shots> {
        self.rendering.shots.as_deref()
    }

    /// How questions become prompts.
    pub(crate) fn rendering(&self) -> &Rendering {
        &self.rendering
    }

    /// Encodes the questions that can be asked in another way than the run's own.
    pub(crate) fn encode_as(
        &self,
        questions: &[MultipleChoice],
        rendering: &Rendering,
    ) -> Result<(Vec<EncodedQuestion>, Vec<Unaskable>), TrainError> {
        let found = self
            .tokenizer
            .encode_askable(questions, rendering, self.prompt_tokens)?;
        self.check_ids(&found.0)?;
        Ok(found)
    }

    /// Encodes the questions of a split that can be asked, and leaves out the others.
    fn encode_split(
        &mut self,
        split: &str,
        questions: &mut Vec<MultipleChoice>,
        config: &RunConfig,
    ) -> Result<Vec<EncodedQuestion>, TrainError> {
        let (encoded, unaskable) = self.encode_as(questions, &self.rendering)?;
        let dataset = config.data.title();
        if let (true, Some(first)) = (encoded.is_empty(), unaskable.first()) {
            let reason = format!(
                "none of its {} questions can be asked, the first because {}",
                questions.len(),
                first.reason
            );
            return Err(TrainError::config(format!("{dataset} {split}"), reason));
        }
        let asked: HashSet<&str> = encoded.iter().map(|q| q.id.as_str()).collect();
        questions.retain(|question| asked.contains(question.id.as_str()));
        self.left_out
            .extend(unaskable.into_iter().map(|unaskable| LeftOut {
                dataset: dataset.clone(),
                split: split.into(),
                unaskable,
            }));
        Ok(encoded)
    }

    /// Refuses tokens that the model does not know.
    fn check_ids(&self, encoded: &[EncodedQuestion]) -> Result<(), TrainError> {
        for question in encoded {
            if let Some(id) = question
                .ids()
                .find(|id| *id as usize >= self.model.vocab_size)
            {
                return Err(TrainError::config(
                    "tokenizer",
                    format!(
                        "row {}: token {id} is past the model's vocabulary of {}: the tokenizer belongs to another model",
                        question.id, self.model.vocab_size
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Training answers longer than the model may write.
    pub fn answers_cut(&self) -> usize {
        let open = self.train.iter().filter_map(|q| q.open.as_ref());
        open.filter(|open| open.cut).count()
    }

    /// Whether the model writes its answers itself.
    pub fn writes(&self) -> bool {
        self.rendering.labels == LabelStyle::Written
    }

    /// Whether a text that answers the question stands in the run's prompt.
    pub fn reads_passage(&self) -> bool {
        self.rendering.reads_passage()
    }

    /// The chat template that questions are put in, if they are.
    pub fn chat(&self) -> Option<&ChatTemplate> {
        self.rendering.chat.as_deref()
    }

    /// Tokens of the longest prompt.
    pub fn prompt_tokens(&self) -> usize {
        self.prompt_tokens
    }

    /// Turns text into tokens and back.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// What the run's settings make of a file of questions. So many `examples` are kept as text.
    pub fn check(&self, file: &CheckedFile, examples: usize) -> CheckedTokens {
        CheckedTokens::of(
            file,
            &self.tokenizer,
            &self.rendering,
            self.prompt_tokens,
            examples,
        )
    }

    /// Text and token of the labels A to E, as they follow the run's prompt.
    ///
    /// # Errors
    /// A label that is not one token.
    pub fn letters(&self) -> Result<Vec<(String, u32)>, TrainError> {
        let question = MultipleChoice {
            id: "labels".into(),
            question: "?".into(),
            passage: None,
            choices: ["1", "2", "3", "4", "5"].map(String::from).into(),
            answer: 0,
            group: None,
            written: false,
        };
        let labels = self.rendering.render(&question)?.labels;
        let encoded = self.encode(&[question])?;
        let tokens = encoded.iter().flat_map(|q| &q.choices).map(|c| c.tokens[0]);
        Ok(labels.into_iter().zip(tokens).collect())
    }

    /// Where the frozen weights come from.
    pub(crate) fn weights(&mut self) -> &mut dyn Weights {
        &mut *self.weights
    }

    /// Loads the frozen weights onto a device.
    ///
    /// # Errors
    /// A missing or misshapen weight.
    pub fn load(&mut self, config: &RunConfig, device: &Device) -> Result<Llama, TrainError> {
        self.load_for(config, 0, device)
    }

    /// Loads the frozen weights for questions of other sets too, the longest of so many positions.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_for(
        &mut self,
        config: &RunConfig,
        positions: usize,
        device: &Device,
    ) -> Result<Llama, TrainError> {
        let longest = self.rotary_positions(positions);
        let dtype = config.model.dtype.float();
        if !device.supports_dtype(DType::from(dtype)) {
            return Err(TrainError::config(
                "model.dtype",
                "the device cannot compute in bf16: use f32",
            ));
        }
        let llama = Llama::load(&self.model, &mut *self.weights, longest, dtype, device)?;
        Ok(llama.with_attention(config.model.attention))
    }

    /// Where each file of the model and the data came from.
    pub fn origins(&self) -> Vec<&Located> {
        self.model_files
            .iter()
            .chain(&self.chat_files)
            .chain(&self.splits.account.files)
            .collect()
    }
}
