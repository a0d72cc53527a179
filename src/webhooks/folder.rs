//! The certificate in a folder, such as a mounted Secret: read again and again, because its files are replaced there.
//!
//! Read, not watched for events: a mounted Secret is replaced through symlinks, other folders in other ways, and two
//! small files a second cost nothing.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls::sign::CertifiedKey;
use tokio::time::sleep;

use super::tls::{self, certified};

/// Between two looks.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A chain of a few certificates has a few KiB.
const LARGEST: u64 = 1024 * 1024;

/// The two files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder {
    /// Of the certificate and its chain.
    pub certificate: PathBuf,
    /// Of the key.
    pub key: PathBuf,
}

/// What the folder holds.
#[derive(Debug)]
pub enum Found {
    /// No file.
    Nothing,
    /// The same as before.
    Unchanged,
    /// Another certificate.
    Certificate(Box<CertifiedKey>),
    /// Files that make no certificate; what was good before still is. Also seen for a moment while they are replaced.
    Broken(String),
}

/// A look at the folder that remembers the last one.
#[derive(Debug)]
pub struct Looker {
    folder: Folder,
    last: Option<(Vec<u8>, Vec<u8>)>,
}

impl Looker {
    /// One that has not looked yet.
    pub fn new(folder: Folder) -> Self {
        Self { folder, last: None }
    }

    /// Waits for a moment.
    pub async fn pause(&self) {
        sleep(LOOK_EVERY).await;
    }

    /// Looks.
    pub async fn look(&mut self) -> Found {
        let pair = (read(&self.folder.certificate).await, read(&self.folder.key).await);
        let pair = match pair {
            (Ok(certificate), Ok(key)) => (certificate, key),
            (Err(one), Err(other)) if is_missing(&one) && is_missing(&other) => return Found::Nothing,
            (Err(error), _) => return Found::Broken(told(&self.folder.certificate, &error)),
            (_, Err(error)) => return Found::Broken(told(&self.folder.key, &error)),
        };
        if self.last.as_ref() == Some(&pair) {
            return Found::Unchanged;
        }
        match certified(&pair.0, &pair.1) {
            Ok(certificate) => {
                self.last = Some(pair);
                Found::Certificate(Box::new(certificate))
            }
            Err(error) => Found::Broken(self.blame(&error)),
        }
    }

    fn blame(&self, error: &tls::Error) -> String {
        let file = if matches!(error, tls::Error::Key(_)) { &self.folder.key } else { &self.folder.certificate };
        format!("{}: {error}", file.display())
    }
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn told(path: &Path, error: &io::Error) -> String {
    format!("{}: {error}", path.display())
}

async fn read(path: &Path) -> io::Result<Vec<u8>> {
    let size = tokio::fs::metadata(path).await?.len();
    if size > LARGEST {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("{size} bytes are no certificate and no key")));
    }
    tokio::fs::read(path).await
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn pair() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(["a".to_owned()]).expect("a certificate");
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    /// As kubelet mounts a Secret: files are links into a folder that a link names, and only that link is replaced.
    fn mount(root: &Path, generation: u32, (certificate, key): (&str, &str)) {
        let data = root.join(format!("..{generation}"));
        fs::create_dir_all(&data).expect("a folder");
        fs::write(data.join("tls.crt"), certificate).expect("a file");
        fs::write(data.join("tls.key"), key).expect("a file");
        let link = root.join("..data_tmp");
        symlink(&data, &link).expect("a link");
        fs::rename(&link, root.join("..data")).expect("a link");
        if generation == 0 {
            for file in ["tls.crt", "tls.key"] {
                symlink(Path::new("..data").join(file), root.join(file)).expect("a link");
            }
        }
    }

    fn root(name: &str) -> PathBuf {
        let root = std::env::temp_dir().join(format!("capi-ipam-folder-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        fs::create_dir_all(&root).expect("a folder");
        root
    }

    fn looker(root: &Path) -> Looker {
        Looker::new(Folder { certificate: root.join("tls.crt"), key: root.join("tls.key") })
    }

    #[tokio::test]
    async fn a_replaced_secret_is_seen_and_a_broken_one_named() {
        let root = root("replaced");
        let mut looker = looker(&root);
        assert!(matches!(looker.look().await, Found::Nothing));
        let (one, other) = (pair(), pair());
        mount(&root, 0, (&one.0, &one.1));
        assert!(matches!(looker.look().await, Found::Certificate(_)));
        assert!(matches!(looker.look().await, Found::Unchanged));
        mount(&root, 1, (&other.0, &one.1));
        let Found::Broken(why) = looker.look().await else { panic!("keys of another certificate") };
        assert!(why.contains("tls.crt: certificate and key do not go together"), "{why}");
        mount(&root, 2, (&one.0, &one.1));
        assert!(matches!(looker.look().await, Found::Unchanged), "what is shown is still the same");
        mount(&root, 3, (&other.0, &other.1));
        assert!(matches!(looker.look().await, Found::Certificate(_)));
        mount(&root, 4, (&other.0, "nothing"));
        let Found::Broken(why) = looker.look().await else { panic!("no key") };
        assert!(why.contains("tls.key: the key cannot be read"), "{why}");
        mount(&root, 5, (&other.0, &" ".repeat(usize::try_from(LARGEST).expect("small") + 1)));
        let Found::Broken(why) = looker.look().await else { panic!("a large key") };
        assert!(why.contains("bytes are no certificate and no key"), "{why}");
        fs::remove_file(root.join("tls.key")).expect("removed");
        assert!(matches!(looker.look().await, Found::Broken(_)), "half a certificate");
        fs::remove_dir_all(&root).expect("removed");
    }
}
