//! A metadata server for tests, which keeps to version 2: no data without a token.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What the server does with the next request.
#[derive(Debug, Clone)]
pub enum Act {
    /// Answers as the real one does.
    Serve,
    /// Answers with this, whatever it is.
    Say(Vec<u8>),
    /// Says nothing, for so long.
    Wait(Duration),
    /// All tokens given so far are worth nothing any more.
    Forget,
}

/// An answer in one piece.
pub fn say(text: &str) -> Act {
    Act::Say(text.as_bytes().to_vec())
}

/// The server.
pub struct Server {
    /// Where it listens.
    pub base: String,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Does `acts` in turn, then serves `data`.
    pub fn start(data: Option<&'static [u8]>, acts: Vec<Act>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        // Ends with the test's process.
        std::thread::spawn(move || {
            let mut acts = acts.into_iter();
            let mut tokens = 0;
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                while let Some(head) = head(&mut reader) {
                    log.lock().unwrap().push(head.clone());
                    match acts.next().unwrap_or(Act::Serve) {
                        Act::Serve => serve(&mut stream, &head, data, &mut tokens),
                        Act::Forget => {
                            tokens += 1000;
                            serve(&mut stream, &head, data, &mut tokens);
                        }
                        Act::Say(bytes) => {
                            let _ = stream.write_all(&bytes);
                            break;
                        }
                        Act::Wait(time) => {
                            std::thread::sleep(time);
                            break;
                        }
                    }
                }
            }
        });
        Self { base, seen }
    }

    /// The first lines of all requests, in small letters.
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().iter().map(|head| head.lines().next().unwrap().to_owned()).collect()
    }
}

fn head(reader: &mut BufReader<TcpStream>) -> Option<String> {
    let mut text = String::new();
    loop {
        let before = text.len();
        reader.read_line(&mut text).ok().filter(|length| *length > 0)?;
        if text.get(before..)?.trim().is_empty() {
            return Some(text.to_ascii_lowercase());
        }
    }
}

fn serve(stream: &mut TcpStream, head: &str, data: Option<&[u8]>, tokens: &mut u32) {
    let answer = |status: &str, body: &[u8]| {
        let mut whole = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
        whole.extend(body);
        whole
    };
    let has = |line: &str| head.lines().any(|other| other == line);
    let bytes = if head.starts_with("put /latest/api/token ") {
        let ttl = head.lines().find_map(|line| line.strip_prefix("x-aws-ec2-metadata-token-ttl-seconds: "));
        let ttl: u32 = ttl.unwrap().parse().unwrap();
        assert!((1..=21_600).contains(&ttl));
        *tokens += 1;
        answer("200 OK", format!("token-{tokens}==").as_bytes())
    } else if !has(&format!("x-aws-ec2-metadata-token: token-{tokens}==")) {
        answer("401 Unauthorized", b"")
    } else if head.starts_with("get /latest/user-data ") {
        data.map_or_else(|| answer("404 Not Found", b"<html>"), |data| answer("200 OK", data))
    } else {
        answer("400 Bad Request", b"")
    };
    let _ = stream.write_all(&bytes);
}
