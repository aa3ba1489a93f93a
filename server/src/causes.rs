//! An error with what caused it, where it is told in a line that is not the command's last one.

use std::error::Error;
use std::iter::successors;

/// `error` and its causes, a colon between them: what `{:#}` prints of an [`anyhow::Error`].
pub(crate) fn with_causes(error: &dyn Error) -> String {
    let errors: Vec<String> =
        successors(Some(error), |&error| error.source()).map(ToString::to_string).collect();
    errors.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::release::OpenReleaseError;
    use engine::shelf::ShelfError;
    use std::io;

    fn refused() -> ShelfError {
        let source = io::Error::new(io::ErrorKind::NotFound, "it is gone");
        let source = OpenReleaseError::Read { path: "r/manifest.json".into(), source };
        ShelfError::Refused { id: "r".into(), source }
    }

    #[test]
    fn every_cause_is_told_once() {
        let told = "release \"r\" is refused: cannot read r/manifest.json: it is gone";
        assert_eq!(with_causes(&refused()), told);
        assert_eq!(format!("{:#}", anyhow::Error::from(refused())), told);
    }
}
