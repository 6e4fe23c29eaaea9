//! Parquet files of one schema become one: their row groups are copied as they are, never decoded.
//!
//! Owns the way from the parts that a writer finishes every few seconds to the file that is left behind. The cost
//! is that of copying the bytes.

#![forbid(unsafe_code)]

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use parquet::column::writer::ColumnCloseResult;
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::writer::SerializedFileWriter;

/// Why parts could not be joined.
#[derive(Debug)]
pub enum JoinError {
    /// A file cannot be read or written.
    Io(std::io::Error),
    /// A part is no Parquet file, or has other columns.
    Parquet(ParquetError),
}

impl From<std::io::Error> for JoinError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<ParquetError> for JoinError {
    fn from(error: ParquetError) -> Self {
        match error {
            ParquetError::External(source) => match source.downcast::<std::io::Error>() {
                Ok(error) => Self::Io(*error),
                Err(source) => Self::Parquet(ParquetError::External(source)),
            },
            other => Self::Parquet(other),
        }
    }
}

/// Writes the row groups of `parts`, in their order, into `target`, and gives the rows it holds then.
///
/// All parts have the schema of the first. `target` is made anew and is whole, and on the disk, when this returns.
pub fn join<P: AsRef<Path>>(parts: &[P], target: &Path) -> Result<i64, JoinError> {
    let first = parts.first().ok_or_else(|| {
        JoinError::Parquet(ParquetError::General("there is nothing to join".into()))
    })?;
    let schema = open(first.as_ref())?
        .metadata()
        .file_metadata()
        .schema_descr()
        .root_schema_ptr();
    let out = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .open(target)?;
    let properties = Arc::new(WriterProperties::builder().build());
    let mut writer = SerializedFileWriter::new(out, schema.clone(), properties)?;
    let mut rows = 0;
    for part in parts {
        let part = part.as_ref();
        let reader = open(part)?;
        let metadata = reader.metadata();
        if metadata.file_metadata().schema_descr().root_schema() != schema.as_ref() {
            let (part, first) = (part.display(), first.as_ref().display());
            let text = format!("{part}: its columns are others than those of {first}");
            return Err(JoinError::Parquet(ParquetError::General(text)));
        }
        let input = File::open(part)?;
        for group in metadata.row_groups() {
            let mut copied = writer.next_row_group()?;
            for column in group.columns() {
                copied.append_column(
                    &input,
                    ColumnCloseResult {
                        bytes_written: column.compressed_size() as _,
                        rows_written: group.num_rows() as _,
                        metadata: column.clone(),
                        bloom_filter: None,
                        column_index: None,
                        offset_index: None,
                    },
                )?;
            }
            copied.close()?;
            rows += group.num_rows();
        }
    }
    writer.into_inner()?.sync_all()?;
    Ok(rows)
}

fn open(path: &Path) -> Result<SerializedFileReader<File>, JoinError> {
    SerializedFileReader::new(File::open(path)?)
        .map_err(|error| ParquetError::General(format!("{}: {error}", path.display())).into())
}
