//! `torch.save` of a dictionary of f32 tensors: a zip archive of a pickle and one raw file for each
//! tensor. pytorch-reader reads it. No crate writes it, so it is written here.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use burn::tensor::{DType, TensorData};
use pytorch_reader::PytorchReader;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::{Tensors, shape};
use crate::error::ModelError;
use crate::load::at;

/// Reads every tensor of a `torch.save` file as f32.
///
/// # Errors
/// A file that is damaged, holds a tensor of another type, or says that it holds more values than
/// would fit in it.
pub fn read(path: &Path) -> Result<Tensors, ModelError> {
    let io = |source: std::io::Error| ModelError::Io {
        path: path.into(),
        source,
    };
    let length = File::open(path)
        .and_then(|file| file.metadata())
        .map_err(io)?
        .len();
    let file = PytorchReader::new(path).map_err(|e| at(path, e.to_string()))?;
    // Tensors may share their values, once or twice. One may also repeat a single value as often
    // as it likes, which no adapter does.
    let values: u64 = file.tensors().values().map(|t| t.byte_len() as u64).sum();
    if values > 4 * length {
        let reason = format!("says that it holds {values} bytes of values, in {length} bytes");
        return Err(at(path, reason));
    }
    file.into_tensors()
        .into_iter()
        .map(|(name, tensor)| {
            let dtype = match tensor.dtype() {
                pytorch_reader::DType::F32 => DType::F32,
                pytorch_reader::DType::F16 => DType::F16,
                pytorch_reader::DType::BF16 => DType::BF16,
                pytorch_reader::DType::F64 => DType::F64,
                other => {
                    let reason = format!("`{name}`: type {other:?} is not implemented");
                    return Err(at(path, reason));
                }
            };
            let bytes = tensor.read().map_err(|e| at(path, e.to_string()))?;
            let data = TensorData::from_bytes_vec(bytes, tensor.shape().to_vec(), dtype);
            Ok((name, data.convert::<f32>()))
        })
        .collect()
}

/// Writes tensors as a file that `torch.load(.., weights_only=True)` reads.
///
/// # Errors
/// A file that cannot be written.
pub fn write(path: &Path, tensors: &Tensors) -> Result<(), ModelError> {
    let io = |source: std::io::Error| ModelError::Io {
        path: path.into(),
        source,
    };
    let file = File::create(path).map_err(io)?;
    let mut archive = ZipWriter::new(BufWriter::new(file));
    // torch maps the tensors' files into memory where they begin at multiples of 64.
    let plain = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .with_alignment(64);
    let mut add = |name: &str, bytes: &[u8]| {
        archive
            .start_file(format!("archive/{name}"), plain)
            .map_err(std::io::Error::from)
            .and_then(|()| archive.write_all(bytes))
            .map_err(io)
    };
    add("data.pkl", &pickle(tensors))?;
    add("byteorder", b"little")?;
    for (number, data) in tensors.values().enumerate() {
        let bytes: Vec<u8> = data.iter::<f32>().flat_map(f32::to_le_bytes).collect();
        add(&format!("data/{number}"), &bytes)?;
    }
    add("version", b"3\n")?;
    let mut inner = archive.finish().map_err(|e| io(e.into()))?;
    inner.flush().map_err(io)
}

/// The dictionary as pickle's protocol 2: name to
/// `torch._utils._rebuild_tensor_v2(storage, 0, shape, stride, False, OrderedDict())`.
fn pickle(tensors: &Tensors) -> Vec<u8> {
    let mut out = vec![0x80, 2, b'}', b'('];
    for (number, (name, data)) in tensors.iter().enumerate() {
        let shape = shape(data);
        text(&mut out, name);
        out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n(");
        // The storage, by a persistent id: ("storage", FloatStorage, file, device, elements).
        out.push(b'(');
        text(&mut out, "storage");
        out.extend(b"ctorch\nFloatStorage\n");
        text(&mut out, &number.to_string());
        text(&mut out, "cpu");
        integer(&mut out, shape.iter().product());
        out.extend(b"tQ");
        integer(&mut out, 0);
        let strides = (0..shape.len()).map(|i| shape[i + 1..].iter().product());
        for list in [shape.clone(), strides.collect::<Vec<usize>>()] {
            out.push(b'(');
            list.into_iter().for_each(|n| integer(&mut out, n));
            out.push(b't');
        }
        // False, an empty OrderedDict, the end of the arguments, and the call.
        out.extend(b"\x89ccollections\nOrderedDict\n)RtR");
    }
    out.extend(b"u.");
    out
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.push(b'X');
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.as_bytes());
}

/// BININT, or LONG1 of eight bytes for what it cannot hold.
fn integer(out: &mut Vec<u8>, n: usize) {
    match i32::try_from(n) {
        Ok(n) => {
            out.push(b'J');
            out.extend(n.to_le_bytes());
        }
        Err(_) => {
            out.extend([0x8a, 8]);
            out.extend((n as i64).to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::floats;

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("adapter_model.bin");
        let tensors = Tensors::from([
            (
                "a.weight".into(),
                TensorData::new(vec![1f32, -2.0, 3.5, 0.0, 7.0, 9.0], [2, 3]),
            ),
            ("b".into(), TensorData::new(vec![4f32], [1])),
        ]);
        write(&path, &tensors).unwrap();
        let read = read(&path).unwrap();
        assert_eq!(
            read.keys().collect::<Vec<_>>(),
            tensors.keys().collect::<Vec<_>>()
        );
        for (name, data) in &tensors {
            assert_eq!(
                (shape(&read[name]), floats(&read[name])),
                (shape(data), floats(data))
            );
        }
    }
}
