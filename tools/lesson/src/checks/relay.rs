//! The two ends of a program that forwards calls: its callers, and its service. The program of lesson 3 takes packets.
//! The gateway of lesson 4 takes HTTP, and learns the address of the service from a distributor.

use std::net::SocketAddr;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::check::{Failure, Verdict, ensure};
use crate::connection::{Connection, PATIENCE};
use crate::http::{self, Asked};
use crate::language::{Text, Words, text};
use crate::listening::Listening;
use crate::packet;
use crate::setup::{Running, Setup};
use crate::transcript::Transcript;

/// How long a program may take until it has a connection to its service.
const LINK_TIME: Duration = Duration::from_secs(5);
/// How long a program may take to use a connection that it has opened.
const NOTE_TIME: Duration = Duration::from_millis(300);
/// A program may also open the connection with the first call.
const EAGER_TIME: Duration = Duration::from_millis(500);

pub struct Relay<'a> {
    program: Rc<Running<'a>>,
    pub service: Service,
    is_gateway: bool,
    /// The distributor, and the registration of the service, for a gateway.
    _kept: Option<(Running<'a>, Connection)>,
}

/// A service `hello` that we play.
pub struct Service {
    listening: Listening,
    pub address: SocketAddr,
    link: Option<Connection>,
}

/// A request that the program has forwarded.
pub struct Request {
    pub key: u64,
    name: String,
}

/// A caller that we play.
pub enum Caller<'a> {
    Packets(Connection),
    Http { gateway: Rc<Running<'a>>, who: Text, asked: Option<Asked> },
}

impl<'a> Relay<'a> {
    /// Starts the program beside a service that we play.
    pub fn start(setup: &'a Setup) -> Result<Self, Failure> {
        let mut service = Service::open(["service", "서비스"], &setup.transcript)?;
        if setup.program.lesson == 3 {
            let program = Rc::new(setup.start_beside(service.address)?);
            // A later one is not too late.
            let _ = service.accept(EAGER_TIME);
            return Ok(Self { program, service, is_gateway: false, _kept: None });
        }
        let distributor = setup.distributor()?;
        let registration = service.register(&distributor, "hello")?;
        let program = Rc::new(setup.start_beside(distributor.address)?);
        service.accept(LINK_TIME)?;
        Ok(Self { program, service, is_gateway: true, _kept: Some((distributor, registration)) })
    }

    pub fn caller(&self, who: Words) -> Result<Caller<'a>, Failure> {
        if self.is_gateway {
            return Ok(Caller::Http { gateway: self.program.clone(), who: who.into(), asked: None });
        }
        self.program.connect(who).map(Caller::Packets)
    }

    /// The latest moment for a 504.
    pub fn latest(&self) -> Duration {
        Duration::from_secs(if self.is_gateway { 3 } else { 2 })
    }
}

impl Service {
    pub fn open(who: Words, transcript: &Transcript) -> Result<Self, Failure> {
        let listening = Listening::open(who, transcript)?;
        Ok(Self { address: listening.address, listening, link: None })
    }

    /// Registers at a distributor, as long as the result lives. Its only route is `GET/<name>`.
    pub fn register(&self, distributor: &Running, name: &str) -> Result<Connection, Failure> {
        let url = format!("GET/{name}");
        let id = self.address.port().to_string();
        let params = json!({ "port": self.address.port(), "name": name, "urls": [url], "proto": "pilcrow/1", "id": id });
        let mut connection = distributor.connect_as(self.listening.who.clone())?;
        connection.send(&json!({ "uri": "/distributes", "method": "POST", "key": 0, "params": params }))?;
        Ok(connection)
    }

    /// Waits until the program opens a connection to this service.
    pub fn accept(&mut self, within: Duration) -> Verdict {
        self.link = Some(self.listening.accept(within)?);
        // The connection is there, but the program must still note it.
        thread::sleep(NOTE_TIME);
        Ok(())
    }

    /// Waits for a request of the program.
    pub fn request(&mut self) -> Result<Request, Failure> {
        if self.link.is_none() {
            self.accept(PATIENCE)?;
        }
        let expected = text!(
            "the service gets {{\"uri\":\"/hello\",\"method\":\"GET\",\"key\":…,\"params\":{{\"name\":…}}}}¶",
            "서비스가 받을 패킷: {{\"uri\":\"/hello\",\"method\":\"GET\",\"key\":…,\"params\":{{\"name\":…}}}}¶"
        );
        let Some(link) = &mut self.link else {
            return Err(Failure::new(expected, text!("nothing", "없음")));
        };
        let packet = link.receive(&expected)?;
        let name = packet["params"]["name"].as_str();
        let is_route = packet["uri"] == "/hello" && packet["method"] == "GET";
        match (packet["key"].as_u64(), name) {
            (Some(key), Some(name)) if is_route => Ok(Request { key, name: name.to_owned() }),
            _ => Err(Failure::new(expected, Text::same(packet::text(&packet)))),
        }
    }

    pub fn reply(&mut self, request: &Request) -> Verdict {
        let mut reply = greeting(&request.name);
        reply["key"] = json!(request.key);
        self.link.as_mut().map_or(Ok(()), |link| link.send(&reply))
    }

    /// Closes the connection, and stays ready for the next one.
    pub fn close(&mut self) {
        self.listening
            .transcript
            .happened(&text!("the service closes the connection", "서비스가 연결을 닫음"));
        if let Some(link) = self.link.take() {
            link.close();
        }
    }
}

impl Caller<'_> {
    /// Asks for a greeting. All callers use the same key.
    pub fn call(&mut self, name: &str) -> Verdict {
        match self {
            Self::Packets(connection) => connection
                .send(&json!({ "uri": "/hello", "method": "GET", "key": 1, "params": { "name": name } })),
            Self::Http { gateway, who, asked } => {
                *asked = Some(http::ask(gateway, who, "GET", &format!("/hello?name={name}"), &Value::Null)?);
                Ok(())
            }
        }
    }

    /// Waits for the greeting with this name.
    pub fn expect_greeting(&mut self, name: &str) -> Verdict {
        self.expect(200, greeting(name), PATIENCE)
    }

    pub fn expect_error(&mut self, code: u16, within: Duration) -> Verdict {
        self.expect(code, json!({ "errorcode": code, "errormessage": "…" }), within)
    }

    fn expect(&mut self, status: u16, mut fields: Value, within: Duration) -> Verdict {
        match self {
            Self::Packets(connection) => {
                fields["key"] = json!(1);
                connection.expect_within(within, &fields)
            }
            Self::Http { asked, .. } => match asked.take() {
                Some(asked) => asked.expect(within, status, &fields).map(drop),
                None => Ok(()),
            },
        }
    }

    /// Nothing else may arrive. Over HTTP, the answer was the end.
    pub fn expect_silence(&mut self, time: Duration) -> Verdict {
        match self {
            Self::Packets(connection) => connection.expect_silence(time),
            Self::Http { asked, .. } => {
                ensure(asked.is_none(), || Failure::new(Text::same("HTTP"), Text::same("…")))
            }
        }
    }
}

fn greeting(name: &str) -> Value {
    json!({ "errorcode": 0, "errormessage": "success", "results": format!("hello {name}") })
}
