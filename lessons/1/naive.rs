//! Lesson 1, the naive version: one read is one packet. That is wrong, and often it works.

use std::env;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};

use serde_json::{Value, json};

fn main() -> io::Result<()> {
    let address = env::args().nth(1).unwrap_or("127.0.0.1:9020".to_owned());
    let listener = TcpListener::bind(&address)?;
    println!("hello listening on {address}");
    loop {
        let (stream, peer) = listener.accept()?;
        if let Err(error) = serve(stream) {
            println!("{peer}: closed: {error}");
        }
    }
}

/// The life of one connection.
fn serve(mut stream: TcpStream) -> io::Result<()> {
    let mut bytes = [0; 8192];
    loop {
        let count = stream.read(&mut bytes)?;
        if count == 0 {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&bytes[..count]);
        let request: Value = serde_json::from_str(text.trim_end_matches('¶'))?;
        let reply = answer(&request).to_string() + "¶";
        stream.write_all(reply.as_bytes())?;
    }
}

/// The reply to one request. It has the key of the request.
fn answer(request: &Value) -> Value {
    let key = &request["key"];
    if request["method"] == "GET" && request["uri"] == "/hello" {
        let name = request["params"]["name"].as_str().unwrap_or("you");
        json!({ "key": key, "errorcode": 0, "errormessage": "success", "results": format!("hello {name}") })
    } else {
        json!({ "key": key, "errorcode": 404, "errormessage": "this service has only GET /hello" })
    }
}
