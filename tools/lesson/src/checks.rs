//! The checks of the lessons, one file for each lesson.

pub mod calling;
pub mod following;
pub mod framing;
pub mod fronting;
pub mod joining;
mod list;
pub mod living;
pub mod relay;
pub mod saving;
pub mod users;

use serde_json::{Value, json};

use crate::check::Check;
use crate::program::Program;

/// Every program passes this before all else.
pub const STARTS: Check = Check {
    name: "starts",
    claim: ["The program starts and accepts a connection.", "프로그램이 시작되어 연결을 받습니다."],
    hint: [
        "The first argument is the address to listen on, such as 127.0.0.1:9020.",
        "첫 번째 인자는 127.0.0.1:9020과 같은 수신 주소입니다.",
    ],
    run: |setup| setup.start()?.connect(["caller", "호출자"]).map(drop),
};

/// How a service is called: `hello` in lessons 1 and 2, `users` from lesson 6 on.
#[derive(Debug, Clone, Copy)]
pub struct Face {
    pub name: &'static str,
    pub uri: &'static str,
}

impl Face {
    pub fn of(program: &Program) -> Self {
        match program.lesson {
            1 | 2 => Self { name: "hello", uri: "/hello" },
            _ => Self { name: "users", uri: "/users" },
        }
    }

    fn is_hello(self) -> bool {
        self.name == "hello"
    }

    /// A request that carries this text. For `hello` it is the name to greet.
    pub fn request(self, key: u64, text: &str) -> Value {
        let params = if self.is_hello() { json!({ "name": text }) } else { json!({ "email": text }) };
        json!({ "uri": self.uri, "method": "GET", "key": key, "params": params })
    }

    /// The reply to that request. A service of users may also reject the text, but under the key.
    pub fn reply(self, key: u64, text: &str) -> Value {
        if self.is_hello() {
            let results = format!("hello {text}");
            return json!({ "key": key, "errorcode": 0, "errormessage": "success", "results": results });
        }
        json!({ "key": key, "errormessage": "…" })
    }
}
