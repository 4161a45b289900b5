//! User data of EC2's instance metadata, version 2: a token first, then the data. Whoever answers at the address is not
//! trusted with more than that: sizes, times and attempts are bounded, redirects are not followed, and no proxy is asked.

#[cfg(test)]
pub mod fake;

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use mote_config::{Layer, MAX_TEXT, Metadata, Source};
use ureq::Agent;
use ureq::http::{Response, StatusCode};

use crate::backoff::Backoff;

/// How long a token is asked for; long enough for all attempts.
const TOKEN_SECONDS: &str = "600";

/// Longest token. EC2's have 56 characters.
const MAX_TOKEN: u64 = 1024;

/// Bound of one request, from connecting to the last byte.
const REQUEST: Duration = Duration::from_secs(5);

/// Pauses between attempts.
const PAUSE: Backoff = Backoff { first: Duration::from_millis(500), most: Duration::from_secs(15) };

/// Attempts; with the pauses between them and the bound of each, a few minutes.
pub const ATTEMPTS: u32 = 12;

/// Times a token may be found to have run out, at once or after.
const RENEWALS: u32 = 2;

/// Name of the layer in messages.
const NAME: &str = "user-data";

/// Where the firmware says whose machine this is.
const DMI: &str = "/sys/class/dmi/id";

/// Why there is no user data.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// Nobody answered in time, or not as HTTP does.
    #[error("No answer from {url}")]
    Silent {
        /// What was asked for.
        url: String,
        /// Why.
        source: Box<ureq::Error>,
    },
    /// The answer was no success.
    #[error("{url} answered {status}")]
    Status {
        /// What was asked for.
        url: String,
        /// The answer.
        status: StatusCode,
    },
    /// The answer broke off.
    #[error("The answer of {url} broke off")]
    Broken {
        /// What was asked for.
        url: String,
        /// Why.
        source: std::io::Error,
    },
    /// What came is no token.
    #[error("{url} gave no token of at most {MAX_TOKEN} printable characters")]
    Token {
        /// What was asked for.
        url: String,
    },
}

impl MetadataError {
    /// Whether it may be otherwise in a moment.
    fn passes(&self) -> bool {
        match self {
            Self::Silent { .. } | Self::Broken { .. } => true,
            Self::Status { status, .. } => {
                status.is_server_error()
                    || [StatusCode::TOO_MANY_REQUESTS, StatusCode::UNAUTHORIZED, StatusCode::REQUEST_TIMEOUT]
                        .contains(status)
            }
            Self::Token { .. } => false,
        }
    }
}

/// Whether user data is to be asked for on this machine.
pub fn wanted(metadata: Metadata) -> bool {
    match metadata {
        Metadata::On => true,
        Metadata::Off => false,
        Metadata::Auto => is_ec2(Path::new(DMI)),
    }
}

/// Whether the firmware says that this is a machine of EC2, virtual or `.metal`.
fn is_ec2(dmi: &Path) -> bool {
    ["sys_vendor", "board_vendor", "chassis_vendor"].iter().any(|name| {
        // These files hold a line; nothing of them is trusted with more.
        std::fs::read(dmi.join(name)).is_ok_and(|bytes| bytes.trim_ascii() == b"Amazon EC2")
    })
}

/// Asks until there is an answer, at most [`ATTEMPTS`] times. None if the machine has no user data.
///
/// # Errors
/// The last reason.
pub async fn fetch(base: String) -> Result<Option<Source>, MetadataError> {
    let mut attempt = 0;
    loop {
        let base = base.clone();
        let result = match tokio::task::spawn_blocking(move || ask(&base, REQUEST)).await {
            Ok(result) => result,
            // Only when init stops.
            Err(_) => return Ok(None),
        };
        attempt += 1;
        match result {
            Err(error) if error.passes() && attempt < ATTEMPTS => {
                crate::log::note(&format!("user data: {}", crate::text::chain(&error)));
                tokio::time::sleep(PAUSE.delay(attempt - 1)).await;
            }
            other => return other,
        }
    }
}

/// One attempt.
fn ask(base: &str, bound: Duration) -> Result<Option<Source>, MetadataError> {
    let agent: Agent = Agent::config_builder()
        .timeout_global(Some(bound))
        .max_redirects(0)
        .max_redirects_will_error(false)
        .http_status_as_error(false)
        // Unset, the environment is asked, and words of the kernel command line are in init's.
        .proxy(None)
        .user_agent("mote")
        .max_response_header_size(8 << 10)
        .build()
        .into();
    let url = format!("{base}/latest/user-data");
    let mut renewals = 0;
    loop {
        let token = token(&agent, base)?;
        let request = agent.get(&url).header("X-aws-ec2-metadata-token", token);
        let response = request.call().map_err(|source| silent(&url, source))?;
        match response.status() {
            StatusCode::OK => {
                return Ok(Some(Source::text(
                    Layer::UserData,
                    NAME,
                    &body(response, &url, MAX_TEXT as u64 + 1)?,
                )));
            }
            StatusCode::NOT_FOUND => return Ok(None),
            StatusCode::UNAUTHORIZED if renewals < RENEWALS => renewals += 1,
            status => return Err(MetadataError::Status { url, status }),
        }
    }
}

fn token(agent: &Agent, base: &str) -> Result<String, MetadataError> {
    let url = format!("{base}/latest/api/token");
    let request = agent.put(&url).header("X-aws-ec2-metadata-token-ttl-seconds", TOKEN_SECONDS);
    let response = request.send_empty().map_err(|source| silent(&url, source))?;
    if response.status() != StatusCode::OK {
        return Err(MetadataError::Status { url, status: response.status() });
    }
    let bytes = body(response, &url, MAX_TOKEN + 1)?;
    let text = String::from_utf8(bytes).unwrap_or_default();
    let text = text.trim();
    // It goes into a header as it is.
    let printable = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    let short = u64::try_from(text.len()).is_ok_and(|length| length <= MAX_TOKEN);
    if printable && short { Ok(text.to_owned()) } else { Err(MetadataError::Token { url }) }
}

fn silent(url: &str, source: ureq::Error) -> MetadataError {
    MetadataError::Silent { url: url.to_owned(), source: Box::new(source) }
}

/// At most `most` bytes of an answer; whoever gets so many knows that it is too long.
fn body(response: Response<ureq::Body>, url: &str, most: u64) -> Result<Vec<u8>, MetadataError> {
    let mut bytes = Vec::new();
    let read = response.into_body().into_reader().take(most).read_to_end(&mut bytes);
    read.map_err(|source| MetadataError::Broken { url: url.to_owned(), source })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::Instant;

    use mote_config::Content;

    use super::fake::{Act, Server, say};
    use super::*;

    fn text(source: Option<Source>) -> Option<String> {
        source.map(|source| match source.content {
            Content::Text(text) => text,
            Content::Options(_) => unreachable!(),
        })
    }

    const DATA: &[u8] = b"[machine]\nhostname = 'cloud'\n";

    #[tokio::test]
    async fn a_token_comes_before_the_data() {
        let server = Server::start(Some(DATA), Vec::new());
        let source = fetch(server.base.clone()).await.unwrap();
        assert_eq!(text(source).unwrap().as_bytes(), DATA);
        assert_eq!(server.seen(), ["put /latest/api/token http/1.1", "get /latest/user-data http/1.1"]);
    }

    #[tokio::test]
    async fn no_user_data_is_no_mistake() {
        let server = Server::start(None, Vec::new());
        assert!(fetch(server.base.clone()).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_token_that_ran_out_is_fetched_anew() {
        let server = Server::start(Some(DATA), vec![Act::Serve, Act::Forget]);
        assert!(fetch(server.base.clone()).await.unwrap().is_some());
        assert_eq!(server.seen().len(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_that_pass_are_tried_again() {
        let busy = say("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        let acts = vec![
            busy,
            say("nonsense\r\n\r\n"),
            say(""),
            say("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"),
        ];
        let server = Server::start(Some(DATA), acts);
        assert!(fetch(server.base.clone()).await.unwrap().is_some());
        assert_eq!(server.seen().len(), 6, "{:?}", server.seen());
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_end() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let began = tokio::time::Instant::now();
        let error = fetch(base).await.unwrap_err();
        assert!(matches!(error, MetadataError::Silent { .. }), "{error}");
        let pauses = began.elapsed();
        assert!((60..180).contains(&pauses.as_secs()), "{pauses:?}");
    }

    #[test]
    fn what_does_not_pass_ends_it_at_once() {
        let answer = |status: &str| {
            say(&format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"))
        };
        let long = "x".repeat(2000);
        for (act, passes) in [
            (answer("403 Forbidden"), false),
            (answer("400 Bad Request"), false),
            (answer("302 Found\r\nLocation: http://127.0.0.1:1/elsewhere"), false),
            (answer("307 Temporary Redirect\r\nLocation: http://127.0.0.1:1/elsewhere"), false),
            (answer("200 OK"), false),
            (say(&format!("HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n{long}")), false),
            (say("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\na\r\nb"), false),
            (answer("500 Internal Server Error"), true),
            (answer("429 Too Many Requests"), true),
        ] {
            let server = Server::start(Some(DATA), vec![act.clone()]);
            let error = ask(&server.base, REQUEST).unwrap_err();
            assert_eq!(error.passes(), passes, "{act:?}: {error}");
            assert_eq!(server.seen().len(), 1, "{act:?}");
        }
        // The same of the data: a redirect with our token in it is not followed.
        let server = Server::start(
            Some(DATA),
            vec![Act::Serve, answer("302 Found\r\nLocation: http://127.0.0.1:1/elsewhere")],
        );
        let error = ask(&server.base, REQUEST).unwrap_err();
        assert!(matches!(error, MetadataError::Status { status: StatusCode::FOUND, .. }), "{error}");
        assert_eq!(server.seen().len(), 2);
    }

    #[test]
    fn sizes_and_times_are_bounded() {
        let endless = format!("HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n{}", "x".repeat(4 << 20));
        let server = Server::start(Some(DATA), vec![Act::Serve, say(&endless)]);
        let source = ask(&server.base, REQUEST).unwrap().unwrap();
        let resolved = mote_config::resolve(&[source]);
        assert!(resolved.problems()[0].contains("at most 262144"), "{:?}", resolved.problems());

        let server = Server::start(Some(DATA), vec![Act::Wait(Duration::from_secs(3))]);
        let began = Instant::now();
        let error = ask(&server.base, Duration::from_millis(200)).unwrap_err();
        assert!(error.passes() && began.elapsed() < Duration::from_secs(2), "{error} {:?}", began.elapsed());
    }

    #[test]
    fn the_firmware_says_whether_it_is_ec2() {
        let dmi = tempfile::tempdir().unwrap();
        assert!(!is_ec2(dmi.path()));
        std::fs::write(dmi.path().join("sys_vendor"), "QEMU\n").unwrap();
        assert!(!is_ec2(dmi.path()));
        std::fs::write(dmi.path().join("board_vendor"), "Amazon EC2\n").unwrap();
        assert!(is_ec2(dmi.path()));
        assert!(wanted(Metadata::On) && !wanted(Metadata::Off));
    }
}
