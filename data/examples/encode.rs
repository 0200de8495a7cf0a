//! A question as text, as tokens, as a batch: `cargo build --workspace --examples`, then
//! `target/debug/examples/encode`.

use burn::data::dataloader::batcher::Batcher;
use burn::tensor::Device;
use data::prompt::LabelStyle;
use data::rendering::{Normalization, Rendering, Scoring};
use data::template::Template;
use data::{MultipleChoice, QuestionBatcher, Tokenizer};

fn main() -> Result<(), data::DataError> {
    let question = MultipleChoice {
        id: "sky".into(),
        question: "What colour is a clear sky at noon?".into(),
        passage: None,
        choices: ["blue", "green", "red"].map(String::from).into(),
        answer: 0,
        group: None,
        written: false,
    };
    let tokenizer = Tokenizer::tiny();
    for scoring in [Scoring::Letters, Scoring::Cloze] {
        let rendering = Rendering {
            template: Template::MoePeft,
            labels: LabelStyle::Letter,
            scoring,
            normalization: Normalization::Token,
            answer_tokens: 16,
            whole_choices: false,
            chat: None,
            shots: None,
        };
        println!("{scoring:?}: {:?}", rendering.render(&question)?.text());
        let encoded =
            tokenizer.encode_questions(std::slice::from_ref(&question), &rendering, 512)?;
        let tokens: Vec<usize> = encoded[0].choices.iter().map(|c| c.tokens.len()).collect();
        println!(
            "  prompt of {} tokens, choices of {tokens:?}",
            encoded[0].prompt.len()
        );
        let batch = QuestionBatcher::default().batch(encoded, &Device::flex());
        println!(
            "  batch {:?}, {} of its tokens computed",
            batch.input.tokens.dims(),
            batch.input.real_tokens
        );
    }
    Ok(())
}
