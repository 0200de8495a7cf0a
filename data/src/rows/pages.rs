//! The sizes that a parquet file states for its rows and pages, against the file's own. The
//! parquet crate takes the memory that a page's header asks for before it looks at the page.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};

use parquet::basic::Compression;
use parquet::file::metadata::ParquetMetaData;

/// Bytes that a page may have whatever it was compressed to. Writers close a page at one or a few
/// MiB.
const PAGE: u64 = 32 << 20;
/// How often a page may be larger than what it was compressed to. Text reaches 10.
const RATIO: u64 = 64;

/// Checks that every column is compressed in a way that is read here.
///
/// # Errors
/// The first column that is not, and what to write instead.
pub(super) fn check_compression(metadata: &ParquetMetaData) -> Result<(), String> {
    let groups = metadata.row_groups().iter();
    for column in groups.flat_map(|group| group.columns()) {
        let name = match column.compression() {
            Compression::BROTLI(_) => "brotli",
            Compression::LZ4 | Compression::LZ4_RAW => "lz4",
            Compression::LZO => "lzo",
            _ => continue,
        };
        return Err(format!(
            "{}: is compressed by {name}, which is not read here: write the file with zstd, snappy or gzip",
            column.column_path().string()
        ));
    }
    Ok(())
}

/// Checks that a file can hold what it says that it holds. Call it before anything but the
/// metadata is read.
///
/// # Errors
/// More rows than bytes, or a page that is far larger than what it was compressed to.
pub fn check_sizes(file: &File, metadata: &ParquetMetaData) -> Result<(), String> {
    let length = file.metadata().map_err(|e| e.to_string())?.len();
    let groups = metadata.row_groups();
    let rows: i64 = groups.iter().map(|group| group.num_rows().max(0)).sum();
    if rows as u64 > length {
        return Err(format!("says that it holds {rows} rows, in {length} bytes"));
    }
    let mut bytes = BufReader::new(file);
    for column in groups.iter().flat_map(|group| group.columns()) {
        let (start, size) = column.byte_range();
        let (mut at, end) = (start, start.saturating_add(size));
        while at < end && bytes.seek(SeekFrom::Start(at)).is_ok() {
            // The parquet crate may make more of it: it does not look at the kinds of fields.
            let Some(page) = page(&mut bytes) else {
                return Err(format!("the header of a page at byte {at} cannot be read"));
            };
            let Page { stored, full, .. } = page;
            // The library makes room for all of them.
            if page.entries > full.max(stored) {
                let entries = page.entries;
                return Err(format!(
                    "says that {full} bytes are a dictionary of {entries}"
                ));
            }
            if full > PAGE && full > RATIO * stored {
                return Err(format!("says that {stored} bytes are a page of {full}"));
            }
            let Ok(behind) = bytes.stream_position() else {
                break;
            };
            at = behind.saturating_add(stored);
        }
    }
    Ok(())
}

/// Bytes of a page in the file and in memory; entries of a dictionary.
struct Page {
    stored: u64,
    full: u64,
    entries: u64,
}

/// Reads a `PageHeader`: field 2 is the size in memory, field 3 that in the file, field 7 the
/// header of a dictionary, whose field 1 counts its entries.
fn page(bytes: &mut impl BufRead) -> Option<Page> {
    let (mut stored, mut full, mut entries) = (None, None, Some(0));
    fields(bytes, 0, 0, &mut |parent, id, number| {
        let number = u64::try_from(number).ok();
        match (parent, id) {
            (0, 2) => full = number,
            (0, 3) => stored = number,
            (7, 1) => entries = number,
            _ => {}
        }
    })?;
    Some(Page {
        stored: stored?,
        full: full?,
        entries: entries?,
    })
}

/// What is told of a whole number: the field that its structure is in, 0 outside; its own field;
/// the number.
type Found<'a> = dyn FnMut(i64, i64, i64) + 'a;

/// Walks over a structure of Thrift's compact protocol, and tells of its whole numbers.
fn fields(
    bytes: &mut impl BufRead,
    parent: i64,
    depth: usize,
    found: &mut Found<'_>,
) -> Option<()> {
    let mut id = 0;
    loop {
        let head = byte(bytes)?;
        if head == 0 {
            return Some(());
        }
        id = match head >> 4 {
            0 => zigzag(bytes)?,
            step => id + i64::from(step),
        };
        match head & 0xf {
            4..=6 => found(parent, id, zigzag(bytes)?),
            // A truth value is its type.
            1 | 2 => {}
            // Only the structures of a page's own header count.
            12 if depth == 0 => fields(bytes, id, 1, found)?,
            kind => skip(bytes, kind, depth + 1)?,
        }
    }
}

fn skip(bytes: &mut impl BufRead, kind: u8, depth: usize) -> Option<()> {
    if depth > 16 {
        return None;
    }
    match kind {
        1..=3 => byte(bytes).map(drop),
        4..=6 => zigzag(bytes).map(drop),
        7 => pass(bytes, 8),
        8 => {
            let length = varint(bytes)?;
            pass(bytes, length)
        }
        9 | 10 => {
            let head = byte(bytes)?;
            let length = match head >> 4 {
                15 => varint(bytes)?,
                short => u64::from(short),
            };
            (0..length).try_for_each(|_| skip(bytes, head & 0xf, depth + 1))
        }
        12 => fields(bytes, 0, depth, &mut |_, _, _| ()),
        _ => None,
    }
}

fn pass(bytes: &mut impl BufRead, length: u64) -> Option<()> {
    let passed = std::io::copy(&mut bytes.take(length), &mut std::io::sink());
    passed.is_ok_and(|passed| passed == length).then_some(())
}

fn byte(bytes: &mut impl BufRead) -> Option<u8> {
    let mut one = [0];
    bytes.read_exact(&mut one).ok()?;
    Some(one[0])
}

fn varint(bytes: &mut impl BufRead) -> Option<u64> {
    let mut number = 0;
    for place in 0..10 {
        let next = byte(bytes)?;
        number |= u64::from(next & 0x7f) << (7 * place);
        if next < 0x80 {
            return Some(number);
        }
    }
    None
}

fn zigzag(bytes: &mut impl BufRead) -> Option<i64> {
    let number = varint(bytes)?;
    Some((number >> 1) as i64 ^ -((number & 1) as i64))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parquet::basic::{Compression, ZstdLevel};
    use parquet::data_type::{ByteArray, ByteArrayType};
    use parquet::file::properties::WriterProperties;
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;

    use super::*;

    /// A file of one compressed column of so many equal cells, in one page if they fit.
    fn file(cells: usize, length: usize) -> Vec<u8> {
        with_dictionary(cells, length, false)
    }

    fn with_dictionary(cells: usize, length: usize, dictionary: bool) -> Vec<u8> {
        let schema = parse_message_type("message m { required binary question; }").unwrap();
        let settings = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_dictionary_enabled(dictionary)
            .build();
        let mut bytes = Vec::new();
        let (schema, settings) = (Arc::new(schema), Arc::new(settings));
        let mut writer = SerializedFileWriter::new(&mut bytes, schema, settings).unwrap();
        let mut group = writer.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let cells = vec![ByteArray::from("x".repeat(length).as_str()); cells];
        let typed = column.typed::<ByteArrayType>();
        typed.write_batch(&cells, None, None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
        writer.close().unwrap();
        bytes
    }

    fn checked(bytes: &[u8]) -> Result<(), String> {
        let path = tempfile::Builder::new()
            .suffix(".parquet")
            .tempfile()
            .unwrap();
        std::fs::write(path.path(), bytes).unwrap();
        let file = File::open(path.path()).unwrap();
        let reader = SerializedFileReader::new(file.try_clone().unwrap()).unwrap();
        check_sizes(&file, reader.metadata())
    }

    #[test]
    fn a_page_cannot_ask_for_gigabytes() {
        let whole = file(40, 100);
        assert_eq!(checked(&whole), Ok(()));
        // The first page's header begins behind `PAR1`: its kind, its size in memory, 40 * 104.
        let (kind, size) = ([0x15, 0x00], [0x15, 0x80, 0x41]);
        assert_eq!(whole[4..9], [&kind[..], &size].concat());
        let mut huge = whole.clone();
        huge.splice(6..9, [0x15, 0xfe, 0xff, 0xff, 0xff, 0x0f]);
        // The metadata at the end counts from the beginning, where nothing has moved.
        let error = checked(&huge).unwrap_err();
        assert!(error.contains("are a page of 2147483647"), "{error}");
        // The size in the file is no number: the parquet crate reads the header all the same.
        let mut odd = huge;
        assert_eq!(odd[12], 0x15);
        odd[12] = 0x1c;
        let error = checked(&odd).unwrap_err();
        assert!(error.contains("page at byte 4 cannot be read"), "{error}");
    }

    /// The smallest input that fuzzing found: a count that made room for four million texts.
    #[test]
    fn a_dictionary_cannot_have_more_entries_than_bytes() {
        let whole = with_dictionary(40, 100, true);
        assert_eq!(checked(&whole), Ok(()));
        // Its kind, sizes of 104 and some bytes, its own header, and in that one entry.
        let at = 4 + whole[4..].iter().position(|byte| *byte == 0x4c).unwrap();
        assert_eq!(whole[at..at + 3], [0x4c, 0x15, 0x02]);
        let mut many = whole.clone();
        many.splice(at + 2..at + 3, [0xe2, 0x96, 0x81, 0x04]);
        let error = checked(&many).unwrap_err();
        assert!(error.contains("are a dictionary of 4203953"), "{error}");
    }

    #[test]
    fn large_pages_that_compress_like_text_are_read() {
        assert_eq!(checked(&file(3, 1 << 20)), Ok(()));
        let error = checked(&file(1, 40 << 20)).unwrap_err();
        assert!(error.contains("bytes are a page of"), "{error}");
        let error = checked(&file(20_000, 0)).unwrap_err();
        assert!(error.contains("20000 rows"), "{error}");
    }
}
