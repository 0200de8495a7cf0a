//! SentencePiece tokenizers of GGUF files (LLaMA-2, Mistral), rebuilt as `transformers` converts
//! them: byte-pair encoding whose merges follow from the scores of the pieces.

use std::collections::HashMap;

use candle_core::quantized::gguf_file::{Content, Value};
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as Decoders;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::{Prepend, Replace, Sequence as Normalizers};
use tokenizers::{AddedToken, DecoderWrapper, NormalizerWrapper, Tokenizer};

use super::header::{around, value};

/// How SentencePiece writes a space.
const SPACE: &str = "\u{2581}";

/// Bytes that a piece has at most.
const LONGEST: usize = 1024;

/// What a piece is, by llama.cpp's number.
const UNKNOWN: i64 = 2;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;
const BYTE: i64 = 6;

/// The tokenizer of a file whose `tokenizer.ggml.model` is `llama`.
pub(super) fn tokenizer(content: &Content) -> Result<Tokenizer, String> {
    let fail = |key: &str, reason: String| format!("tokenizer.ggml.{key}: {reason}");
    let list = |key: &'static str| {
        let found = value(content, &format!("tokenizer.ggml.{key}"));
        let found = found.map_err(|e| e.to_string())?;
        found
            .to_vec()
            .map_err(|_| fail(key, "expected a list".into()))
    };
    let pieces: Vec<&str> = list("tokens")?
        .iter()
        .map(|piece| piece.to_string().map(String::as_str))
        .collect::<Result<_, _>>()
        .map_err(|_| fail("tokens", "expected texts".into()))?;
    let scores: Vec<f32> = list("scores")?
        .iter()
        .map(|score| score.to_f32())
        .collect::<Result<_, _>>()
        .map_err(|_| fail("scores", "expected numbers".into()))?;
    let kinds: Vec<i64> = list("token_type")?
        .iter()
        .map(|kind| match kind {
            Value::U32(kind) => Ok(i64::from(*kind)),
            Value::I32(kind) => Ok(i64::from(*kind)),
            _ => Err(fail("token_type", "expected whole numbers".into())),
        })
        .collect::<Result<_, _>>()?;
    if [scores.len(), kinds.len()] != [pieces.len(); 2] {
        let reason = format!(
            "{} pieces, {} scores and {} types do not belong together",
            pieces.len(),
            scores.len(),
            kinds.len()
        );
        return Err(fail("tokens", reason));
    }
    // Its pairs take a time of the length's square.
    if let Some(place) = pieces.iter().position(|piece| piece.len() > LONGEST) {
        let reason = format!(
            "piece {place} has {} bytes, at most {LONGEST}",
            pieces[place].len()
        );
        return Err(fail("tokens", reason));
    }
    let vocabulary: HashMap<&str, u32> = pieces.iter().copied().zip(0..).collect();
    let unknown = kinds.iter().position(|kind| *kind == UNKNOWN);
    let unknown = unknown.map(|place| pieces[place].to_owned());
    let of_pieces = pieces.iter().zip(&scores).zip(&kinds);
    // Only pieces that text is made of merge.
    let plain =
        of_pieces.filter(|(_, kind)| ![UNKNOWN, CONTROL, USER_DEFINED, BYTE].contains(kind));
    let merges = merges(
        plain.map(|((piece, score), _)| (*piece, *score)),
        &vocabulary,
    );
    let ids = pieces
        .iter()
        .map(|piece| (*piece).to_owned())
        .zip(0u32..)
        .collect();
    let mut bpe = BPE::new(ids, merges);
    bpe.unk_token = unknown;
    bpe.fuse_unk = true;
    bpe.byte_fallback = kinds.contains(&BYTE);
    let mut tokenizer = Tokenizer::new(bpe);
    let replace = |from: &str, to: &str| Replace::new(from, to).map_err(|e| e.to_string());
    let prefix = flag(content, "add_space_prefix").unwrap_or(true);
    let mut normalizers: Vec<NormalizerWrapper> = Vec::new();
    if prefix {
        normalizers.push(Prepend::new(SPACE.into()).into());
    }
    normalizers.push(replace(" ", SPACE)?.into());
    tokenizer
        .with_normalizer(Some(Normalizers::new(normalizers)))
        .map_err(|e| format!("tokenizer: {e}"))?;
    let mut decoders: Vec<DecoderWrapper> = vec![
        replace(SPACE, " ")?.into(),
        ByteFallback::default().into(),
        Fuse::default().into(),
    ];
    if prefix {
        decoders.push(Strip::new(' ', 1, 0).into());
    }
    tokenizer.with_decoder(Some(Decoders::new(decoders)));
    // Phi-3's markers of a turn swallow the white space that follows them, which files do not say.
    let phi_3 = value(content, "general.architecture")
        .is_ok_and(|name| name.to_string().is_ok_and(|name| name == "phi3"));
    let swallows = |piece: &str| phi_3 && !["<unk>", "<s>", "<|endoftext|>"].contains(&piece);
    let added = pieces.iter().zip(&kinds).filter_map(|(piece, kind)| {
        let special = matches!(*kind, UNKNOWN | CONTROL);
        (special || *kind == USER_DEFINED).then(|| {
            AddedToken::from(*piece, special)
                // A run of spaces (Gemma's) may stand there as the normalizer writes it.
                .normalized(piece.contains(SPACE))
                .rstrip(swallows(piece))
        })
    });
    let added: Vec<AddedToken> = added.collect();
    tokenizer
        .add_tokens(added)
        .map_err(|e| format!("tokenizer: {e}"))?;
    around(content, true, &mut tokenizer)?;
    Ok(tokenizer)
}

/// Which two pieces become one, in the order in which they do: SentencePiece joins the neighbours
/// whose joint piece has the highest score.
fn merges<'a>(
    pieces: impl Iterator<Item = (&'a str, f32)>,
    vocabulary: &HashMap<&str, u32>,
) -> Vec<(String, String)> {
    let mut found: Vec<(&str, &str, f32)> = Vec::new();
    for (piece, score) in pieces {
        let ends = piece
            .char_indices()
            .skip(1)
            .map(|(end, _)| piece.split_at(end));
        let mut own: Vec<_> = ends
            .filter_map(|(left, right)| {
                Some((*vocabulary.get(left)?, *vocabulary.get(right)?, left, right))
            })
            .collect();
        own.sort_unstable();
        found.extend(
            own.into_iter()
                .map(|(_, _, left, right)| (left, right, score)),
        );
    }
    let length = |text: &str| text.chars().count();
    found.sort_by(|(a, b, one), (c, d, other)| {
        let longest = || (length(c), length(d)).cmp(&(length(a), length(b)));
        other.total_cmp(one).then_with(longest)
    });
    let own = |(left, right, _): (&str, &str, f32)| (left.to_owned(), right.to_owned());
    found.into_iter().map(own).collect()
}

fn flag(content: &Content, key: &str) -> Option<bool> {
    let found = content.metadata.get(&format!("tokenizer.ggml.{key}"))?;
    found.to_bool().ok()
}
