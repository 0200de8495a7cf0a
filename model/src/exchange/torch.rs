//! `torch.save` of a dictionary of f32 tensors: a zip archive of a pickle and one raw file for each
//! tensor. candle-core reads it. No crate writes it, so it is written here.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use burn::tensor::TensorData;
use candle_core::DType;
use candle_core::pickle::PthTensors;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::{Tensors, shape};
use crate::error::ModelError;
use crate::load::at;

/// Reads every tensor of a `torch.save` file as f32.
///
/// # Errors
/// A file that is damaged or holds anything but a dictionary of tensors.
pub fn read(path: &Path) -> Result<Tensors, ModelError> {
    let fail = |e: candle_core::Error| at(path, e.to_string());
    // Opened here for its error: candle's own does not name the file.
    File::open(path).map_err(|source| ModelError::Io {
        path: path.into(),
        source,
    })?;
    let file = PthTensors::new(path, None).map_err(fail)?;
    let mut names: Vec<String> = file.tensor_infos().keys().cloned().collect();
    names.sort();
    names
        .into_iter()
        .map(|name| {
            let tensor = file.get(&name).map_err(fail)?;
            let tensor = tensor
                .ok_or_else(|| at(path, format!("`{name}` is in the list but not in the file")))?;
            if !tensor.dtype().is_float() {
                let reason = format!("`{name}`: type {:?} is not implemented", tensor.dtype());
                return Err(at(path, reason));
            }
            let dims = tensor.dims().to_vec();
            let values: Vec<f32> = tensor
                .to_dtype(DType::F32)
                .and_then(|t| t.flatten_all()?.to_vec1())
                .map_err(fail)?;
            Ok((name, TensorData::new(values, dims)))
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
