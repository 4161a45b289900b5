//! Where things are: the source tree, the output folder, the manifest of a finished image.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why the source tree or an image of it cannot be used.
#[derive(Debug, Error)]
pub enum ProjectError {
    /// Not inside a checkout.
    #[error("No Mote source tree at or above {0}: run this inside a checkout or pass --root")]
    NotFound(PathBuf),
    /// No finished image.
    #[error("No image in {0}: run `make image` first")]
    NoImage(PathBuf),
    /// The manifest is there but is not one.
    #[error("Unreadable image manifest {path}: run `make image` again")]
    BadManifest {
        /// The manifest.
        path: PathBuf,
        /// What was wrong.
        source: serde_json::Error,
    },
}

/// A checkout of the project.
#[derive(Debug, Clone)]
pub struct Project {
    root: PathBuf,
    dist: PathBuf,
}

/// What `dist/manifest.json` says about a finished image. It is written last: an image without one is
/// not finished.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the workspace.
    pub version: String,
    /// `git describe` of the sources.
    pub build: String,
    /// Kernel command line, without what the boot medium adds.
    pub cmdline: String,
    /// SHA-256 of everything that went into the image.
    pub inputs: String,
}

impl Project {
    /// Finds the checkout at or above `from`.
    ///
    /// # Errors
    /// [`ProjectError::NotFound`] when there is none.
    pub fn find(from: &Path) -> Result<Self, ProjectError> {
        from.ancestors()
            .find(|dir| dir.join("Cargo.toml").is_file() && dir.join("config/kernel").is_dir())
            .map(|root| Self { root: root.to_path_buf(), dist: root.join("dist") })
            .ok_or_else(|| ProjectError::NotFound(from.to_path_buf()))
    }

    /// The same checkout with finished images in another folder.
    #[must_use]
    pub fn with_dist(self, dist: PathBuf) -> Self {
        Self { dist, ..self }
    }

    /// The top of the checkout.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A file of the checkout.
    #[must_use]
    pub fn file(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// Where finished images go.
    #[must_use]
    pub fn dist(&self) -> PathBuf {
        self.dist.clone()
    }

    /// The appliance's kernel.
    #[must_use]
    pub fn kernel(&self) -> PathBuf {
        self.dist().join("bzImage")
    }

    /// The initramfs that holds PID 1.
    #[must_use]
    pub fn initramfs(&self) -> PathBuf {
        self.dist().join("initramfs.cpio")
    }

    /// The read-only system disk.
    #[must_use]
    pub fn system_disk(&self) -> PathBuf {
        self.dist().join("system.img")
    }

    /// The data disk that `make run` uses.
    #[must_use]
    pub fn data_disk(&self) -> PathBuf {
        self.dist().join("data.img")
    }

    /// The manifest of the finished image.
    #[must_use]
    pub fn manifest_path(&self) -> PathBuf {
        self.dist().join("manifest.json")
    }

    /// Reads the manifest and checks that the image's files are there.
    ///
    /// # Errors
    /// [`ProjectError::NoImage`] when a file is missing, [`ProjectError::BadManifest`] when it is broken.
    pub fn image(&self) -> Result<Manifest, ProjectError> {
        let path = self.manifest_path();
        let text = std::fs::read_to_string(&path).map_err(|_| ProjectError::NoImage(self.dist()))?;
        for file in [self.kernel(), self.initramfs(), self.system_disk()] {
            if !file.is_file() {
                return Err(ProjectError::NoImage(self.dist()));
            }
        }
        serde_json::from_str(&text).map_err(|source| ProjectError::BadManifest { path, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkout_is_found_from_inside_and_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("a/b");
        std::fs::create_dir_all(&inside).unwrap();
        assert!(matches!(Project::find(&inside), Err(ProjectError::NotFound(_))));
        std::fs::create_dir_all(dir.path().join("config/kernel")).unwrap();
        std::fs::write(dir.path().join("Cargo.toml"), "").unwrap();
        let found = Project::find(&inside).unwrap();
        assert_eq!((found.root(), found.dist()), (dir.path(), dir.path().join("dist")));
        assert_eq!(found.with_dist("/out".into()).kernel(), Path::new("/out/bzImage"));
    }

    #[test]
    fn an_image_with_a_missing_file_is_no_image() {
        let dir = tempfile::tempdir().unwrap();
        let project = Project { root: dir.path().into(), dist: dir.path().join("made") };
        assert!(matches!(project.image(), Err(ProjectError::NoImage(_))));
        std::fs::create_dir(project.dist()).unwrap();
        let manifest =
            Manifest { version: "1".into(), build: "b".into(), cmdline: "c".into(), inputs: "i".into() };
        std::fs::write(project.manifest_path(), serde_json::to_string(&manifest).unwrap()).unwrap();
        assert!(matches!(project.image(), Err(ProjectError::NoImage(_))));
        for file in [project.kernel(), project.initramfs(), project.system_disk()] {
            std::fs::write(file, "x").unwrap();
        }
        assert_eq!(project.image().unwrap(), manifest);
        std::fs::write(project.manifest_path(), "{").unwrap();
        assert!(matches!(project.image(), Err(ProjectError::BadManifest { .. })));
    }
}
