//! Embeddings from files: what the configuration says of them, and their rows in the order of the history's ids.

use std::path::{Path, PathBuf};

use featurestore::schema::nearest_name;
use featurestore::{History, Names};
use retrieval::embedding::ImportedVectors;
use retrieval::import::{ImportError, NamedVectors, read_npy, read_parquet};
use retrieval::vectors::Vectors;
use serde::{Deserialize, Serialize};

/// Files of vectors that were trained elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmbeddingImport {
    /// Vectors of items, `.npy` or `.parquet`; relative to the configuration file, as all of them.
    pub items: PathBuf,
    /// The id of each row of `items`, one a line, if it is `.npy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item_ids: Option<PathBuf>,
    /// Vectors of users; left out: each is the mean of the items that the user has a history with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub users: Option<PathBuf>,
    /// The id of each row of `users`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_ids: Option<PathBuf>,
    /// Column of the ids in Parquet files.
    #[serde(default = "id_column")]
    pub id_column: String,
    /// Column of the vectors in Parquet files.
    #[serde(default = "vector_column")]
    pub vector_column: String,
}

fn id_column() -> String {
    "id".into()
}

fn vector_column() -> String {
    "vector".into()
}

/// Why vectors cannot be imported.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddingImportError {
    /// A file cannot be read, or is not what it should be.
    #[error(transparent)]
    File(#[from] ImportError),
    /// A row belongs to nothing that is known.
    #[error(
        "{}, row {row}: there is no {what} {id:?} in the catalogue or the event log{}: import it with `cascade import`, \
         or leave the row out",
        path.display(), did_you_mean(nearest)
    )]
    UnknownId {
        /// The file.
        path: PathBuf,
        /// Position of the row, from 0.
        row: usize,
        /// `item` or `user`.
        what: &'static str,
        /// What the row is called.
        id: String,
        /// The known id that is most like it.
        nearest: Option<String>,
    },
    /// Users cannot be multiplied with items.
    #[error(
        "{}: its vectors have {found} values, but those of {} have {expected}: both must be of one training",
        users.display(), items.display()
    )]
    Dim {
        /// The file of the users.
        users: PathBuf,
        /// The file of the items.
        items: PathBuf,
        /// Length of a user's vector.
        found: usize,
        /// Length of an item's.
        expected: usize,
    },
}

fn did_you_mean(nearest: &Option<String>) -> String {
    nearest.as_ref().map_or_else(String::new, |name| format!(" (the most similar is {name:?})"))
}

/// A file of vectors with what it takes to read it.
enum VectorFile<'a> {
    Npy { vectors: &'a Path, ids: &'a Path },
    Parquet { path: &'a Path },
}

impl<'a> VectorFile<'a> {
    /// The file at `path`, with `ids` beside it.
    ///
    /// # Errors
    /// What is wrong, in words.
    fn new(path: &'a Path, ids: Option<&'a Path>) -> Result<Self, &'static str> {
        match (path.extension().and_then(|extension| extension.to_str()), ids) {
            (Some("npy"), Some(ids)) => Ok(Self::Npy { vectors: path, ids }),
            (Some("npy"), None) => Err(
                "needs a text file with the id of each row, one a line: name it in `item_ids` or `user_ids`",
            ),
            (Some("parquet"), None) => Ok(Self::Parquet { path }),
            (Some("parquet"), Some(_)) => Err("has its ids in a column: leave the file of ids out"),
            _ => Err("must end in .npy or .parquet"),
        }
    }
}

impl EmbeddingImport {
    /// Checks what can be checked without the files.
    ///
    /// # Errors
    /// The key that is wrong, its value, and why.
    pub(crate) fn check(&self) -> Result<(), (&'static str, &Path, &'static str)> {
        let Self { items, item_ids, users, user_ids, .. } = self;
        VectorFile::new(items, item_ids.as_deref())
            .map_err(|reason| ("items", items.as_path(), reason))?;
        match (users, user_ids) {
            (Some(users), ids) => VectorFile::new(users, ids.as_deref())
                .map(drop)
                .map_err(|reason| ("users", users.as_path(), reason)),
            (None, Some(ids)) => Err(("user_ids", ids, "there are no `users` whose ids these are")),
            (None, None) => Ok(()),
        }
    }

    /// Takes relative paths from `folder`.
    pub(crate) fn resolve(&mut self, folder: &Path) {
        for path in self.paths() {
            *path = folder.join(&*path);
        }
    }

    /// The same without the folders of the machine that the files lie on.
    pub(crate) fn portable(&self) -> Self {
        let mut portable = self.clone();
        for path in portable.paths() {
            *path = path.file_name().map(PathBuf::from).unwrap_or_default();
        }
        portable
    }

    fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let Self { items, item_ids, users, user_ids, .. } = self;
        [Some(items), item_ids.as_mut(), users.as_mut(), user_ids.as_mut()].into_iter().flatten()
    }

    /// Reads the files; rows are numbered as `history` numbers items and users.
    ///
    /// # Errors
    /// If a file cannot be read, or a row of it cannot be used: with the file, the row and the value.
    pub fn read(&self, history: &History) -> Result<ImportedVectors, EmbeddingImportError> {
        let items =
            self.vectors(&self.items, self.item_ids.as_deref(), "item", history.items.names())?;
        let Some(path) = &self.users else {
            let none = Vectors::new(Vec::new(), items.dim()).expect("no rows are of any length");
            return Ok(ImportedVectors::new(items, none));
        };
        let users = self.vectors(path, self.user_ids.as_deref(), "user", history.users.names())?;
        if users.dim() != items.dim() {
            return Err(EmbeddingImportError::Dim {
                users: path.clone(),
                items: self.items.clone(),
                found: users.dim(),
                expected: items.dim(),
            });
        }
        Ok(ImportedVectors::new(items, users))
    }

    /// The vectors in a file, one for each of `names`; zeros where it has none.
    fn vectors(
        &self,
        path: &Path,
        ids: Option<&Path>,
        what: &'static str,
        names: &Names,
    ) -> Result<Vectors, EmbeddingImportError> {
        let file =
            VectorFile::new(path, ids).expect("a configuration was checked when it was read");
        let rows: NamedVectors = match file {
            VectorFile::Npy { vectors, ids } => read_npy(vectors, ids)?,
            VectorFile::Parquet { path } => {
                read_parquet(path, &self.id_column, &self.vector_column)?
            }
        };
        let dim = rows.first().map_or(0, |(_, vector)| vector.len());
        let mut values = vec![0.0; names.len() * dim];
        for (row, (id, vector)) in rows.into_iter().enumerate() {
            let Some(position) = names.get(&id) else {
                let nearest = nearest_name(&id, names.iter());
                return Err(EmbeddingImportError::UnknownId {
                    path: path.into(),
                    row,
                    what,
                    id,
                    nearest,
                });
            };
            values[position as usize * dim..][..dim].copy_from_slice(&vector);
        }
        Ok(Vectors::new(values, dim).expect("the reader found rows of one length, all finite"))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;

    use featurestore::history::HistoryBuilder;
    use featurestore::log::Record;
    use featurestore::{ItemId, NamedEvent, Schema, UserId};
    use parquet::data_type::{ByteArray, ByteArrayType, FloatType};
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;
    use retrieval::embedding::Embedding;
    use retrieval::ials::FoldInScratch;
    use tempfile::TempDir;

    use super::*;

    /// Items `a`, `b`, `c` and users `u`, `v`, each numbered in this order.
    fn history() -> History {
        let schema = Schema::default();
        let mut builder = HistoryBuilder::new(&schema);
        for (user, item) in [("u", "a"), ("v", "b"), ("v", "c")] {
            builder.push(&Record::Event(NamedEvent {
                user: Some(user.into()),
                item: item.into(),
                ..NamedEvent::default()
            }));
        }
        builder.build()
    }

    /// Writes `rows` of `dim` into `NAME.npy` and their ids into `NAME.txt`.
    fn write_npy(folder: &TempDir, name: &str, dim: usize, rows: &[(&str, &[f32])]) {
        let shape = format!("({}, {dim})", rows.len());
        let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n");
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(rows.iter().flat_map(|(_, row)| row.iter().flat_map(|x| x.to_le_bytes())));
        fs::write(folder.path().join(format!("{name}.npy")), bytes).unwrap();
        let ids: String = rows.iter().map(|(id, _)| format!("{id}\n")).collect();
        fs::write(folder.path().join(format!("{name}.txt")), ids).unwrap();
    }

    fn write_parquet(path: &Path, rows: &[(&str, [f32; 2])]) {
        let schema = "message items {
            required binary sku (UTF8);
            required group embedding (LIST) { repeated group list { required float element; } }
        }";
        let schema = Arc::new(parse_message_type(schema).unwrap());
        let file = fs::File::create(path).unwrap();
        let mut writer = SerializedFileWriter::new(file, schema, Arc::default()).unwrap();
        let mut group = writer.next_row_group().unwrap();
        let ids: Vec<ByteArray> = rows.iter().map(|(id, _)| ByteArray::from(*id)).collect();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&ids, None, None).unwrap();
        column.close().unwrap();
        let values: Vec<f32> = rows.iter().flat_map(|(_, vector)| *vector).collect();
        // Every value is there, and every other one begins a list.
        let levels = vec![1; values.len()];
        let repeats: Vec<i16> = (0..values.len()).map(|i| (i % 2) as i16).collect();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<FloatType>().write_batch(&values, Some(&levels), Some(&repeats)).unwrap();
        column.close().unwrap();
        group.close().unwrap();
        writer.close().unwrap();
    }

    fn import(folder: &TempDir, with_users: bool) -> EmbeddingImport {
        let users = with_users.then(|| ("users.npy".into(), "users.txt".into()));
        let (users, user_ids) = users.unzip();
        let mut import = EmbeddingImport {
            items: "items.npy".into(),
            item_ids: Some("items.txt".into()),
            users,
            user_ids,
            id_column: id_column(),
            vector_column: vector_column(),
        };
        assert_eq!(import.check(), Ok(()));
        import.resolve(folder.path());
        import
    }

    fn error(folder: &TempDir, with_users: bool) -> String {
        let error = import(folder, with_users).read(&history()).unwrap_err().to_string();
        // The folder is another one in every run.
        error.replace(&format!("{}/", folder.path().display()), "")
    }

    #[test]
    fn rows_come_in_the_order_of_the_history_and_zeros_where_there_are_none() {
        let folder = tempfile::tempdir().unwrap();
        write_npy(&folder, "items", 2, &[("c", &[1.0, 2.0]), ("a", &[3.0, 4.0])]);
        write_npy(&folder, "users", 2, &[("v", &[5.0, 6.0])]);
        let vectors = import(&folder, true).read(&history()).unwrap();
        assert_eq!(vectors.items().as_slice(), [3.0, 4.0, 0.0, 0.0, 1.0, 2.0]);
        let embedding = Embedding::Imported(vectors);
        let user = |id| {
            embedding.user(Some(UserId(id)), &[(ItemId(2), 1.0)], &mut FoldInScratch::default())
        };
        assert_eq!((user(0), user(1)), (Some(vec![1.0, 2.0]), Some(vec![5.0, 6.0])));
    }

    #[test]
    fn a_parquet_file_is_read_by_the_columns_that_the_configuration_names() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("items.parquet");
        write_parquet(&path, &[("b", [1.0, 2.0]), ("a", [3.0, 4.0])]);
        let mut import = EmbeddingImport {
            items: path,
            item_ids: None,
            users: None,
            user_ids: None,
            id_column: "sku".into(),
            vector_column: "embedding".into(),
        };
        assert_eq!(import.check(), Ok(()));
        let vectors = import.read(&history()).unwrap();
        assert_eq!(vectors.items().as_slice(), [3.0, 4.0, 1.0, 2.0, 0.0, 0.0]);
        import.vector_column = vector_column();
        let error = import.read(&history()).unwrap_err().to_string();
        assert!(error.contains("no column \"vector\"") && error.contains("embedding"), "{error}");
    }

    #[test]
    fn an_unknown_id_is_named_with_its_row_and_the_most_similar_one() {
        let folder = tempfile::tempdir().unwrap();
        write_npy(&folder, "items", 1, &[("a", &[1.0]), ("A", &[1.0])]);
        assert_eq!(
            error(&folder, false),
            "items.npy, row 1: there is no item \"A\" in the catalogue or the event log (the most similar is \"a\"): \
             import it with `cascade import`, or leave the row out"
        );
        write_npy(&folder, "items", 1, &[("a", &[1.0])]);
        write_npy(&folder, "users", 1, &[("nobody", &[1.0])]);
        assert!(error(&folder, true).starts_with("users.npy, row 0: there is no user \"nobody\""));
    }

    #[test]
    fn a_value_that_is_not_finite_is_named_with_its_row() {
        let folder = tempfile::tempdir().unwrap();
        write_npy(&folder, "items", 2, &[("a", &[1.0, 2.0]), ("b", &[1.0, f32::NAN])]);
        assert_eq!(
            error(&folder, false),
            "items.npy, row 1: value 1 of the vector of \"b\" is NaN, and must be finite in single precision: leave the \
             row out if there is no vector"
        );
    }

    #[test]
    fn users_of_another_dimension_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        write_npy(&folder, "items", 2, &[("a", &[1.0, 2.0])]);
        write_npy(&folder, "users", 3, &[("u", &[1.0, 2.0, 3.0])]);
        assert_eq!(
            error(&folder, true),
            "users.npy: its vectors have 3 values, but those of items.npy have 2: both must be of one training"
        );
    }

    #[test]
    fn ids_that_do_not_match_the_rows_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        write_npy(&folder, "items", 1, &[("a", &[1.0]), ("b", &[1.0])]);
        fs::write(folder.path().join("items.txt"), "a\n").unwrap();
        assert_eq!(
            error(&folder, false),
            "items.npy: it has 2 rows, but its file of ids has 1 lines: each row needs one"
        );
    }

    #[test]
    fn a_file_without_rows_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        write_npy(&folder, "items", 2, &[]);
        assert!(error(&folder, false).starts_with("items.npy: it must have 1 to"));
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(error(&folder, false), "cannot read items.npy");
    }

    #[test]
    fn a_release_keeps_the_names_of_the_files_alone() {
        let folder = tempfile::tempdir().unwrap();
        let portable = import(&folder, true).portable();
        assert_eq!(portable.items, Path::new("items.npy"));
        assert_eq!(portable.user_ids.as_deref(), Some(Path::new("users.txt")));
    }
}
