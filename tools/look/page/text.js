// Every text that the page shows, in English and in Korean, side by side. The terms are those of docs/glossary.md.
//
// `{name}` is replaced by a value. `{n:failure/failures}` becomes "1 failure" or "3 failures".
// Texts that come from other processes, such as the steps of an explanation, are shown as they came.

const TEXTS = {
  title: ["Pilcrow, live", "Pilcrow 라이브"],
  live: ["live", "라이브"],
  settings: ["Settings", "설정"],
  views: ["Views", "보기"],
  map: ["Processes and links", "프로세스와 링크"],
  health: ["Health", "상태 요약"],
  other_language: ["한국어", "English"],
  theme_dark: ["Dark", "어둡게"],
  theme_light: ["Light", "밝게"],

  development: ["development mode", "개발 모드"],
  secured: ["secured: read-only", "보안 모드: 읽기 전용"],
  secured_why: [
    "The processes share a cluster secret. So this page is read-only and shows no packets.",
    "프로세스들이 클러스터 비밀(cluster secret)을 사용합니다. 그래서 이 페이지는 읽기 전용이며 패킷 내용을 표시하지 않습니다.",
  ],
  connecting: ["connecting to look …", "look에 연결하는 중 …"],
  connected: ["connected", "연결됨"],
  connection_lost: ["connection lost", "연결 끊김"],
  lost_why: [
    "The connection to look is lost. What you see is old. The page connects again by itself.",
    "look과의 연결이 끊어졌습니다. 지금 보이는 내용은 이전 상태입니다. 페이지가 자동으로 다시 연결합니다.",
  ],

  up: ["up", "정상"],
  down: ["down", "중단"],
  set_aside: ["set aside", "제외됨"],
  leaving: ["leaving", "이탈 중"],
  silent: ["silent", "무응답"],
  frozen: ["frozen", "멈춤"],
  starting: ["starting", "시작 중"],
  running: ["running", "실행 중"],
  ended: ["ended", "종료됨"],

  fine: [
    "Everything is fine: {gateways:gateway/gateways}, {instances:instance/instances} and {distributors:distributor/distributors} are up.",
    "모두 정상입니다. 게이트웨이 {gateways}개, 인스턴스 {instances}개, 분배기 {distributors}개가 동작 중입니다.",
  ],
  no_instance: [
    "No service is registered. The gateway answers 404 or 503 until one starts.",
    "등록된 서비스가 없습니다. 서비스가 시작될 때까지 게이트웨이는 404나 503으로 응답합니다.",
  ],
  no_gateway: ["No gateway is registered.", "등록된 게이트웨이가 없습니다."],
  health_distributor: [
    "The distributor {address} is down. Requests continue, but no process can join.",
    "분배기 {address}가 중단되었습니다. 요청은 계속 처리되지만 새 프로세스는 참여할 수 없습니다.",
  ],
  health_gateway_down: ["The gateway {address} is down. {why}", "게이트웨이 {address}가 중단되었습니다. {why}"],
  health_gateway_silent: ["The gateway {address} does not answer. {why}", "게이트웨이 {address}가 응답하지 않습니다. {why}"],
  health_frozen: [
    "{name} {address} is frozen: it keeps its connections and answers nothing.",
    "{name} {address} 프로세스가 멈춰 있습니다. 연결은 유지하지만 응답하지 않습니다.",
  ],
  health_instance_down: ["{name} {address} is down.", "{name} {address} 인스턴스가 중단되었습니다."],
  health_leaving: [
    "{name} {address} is leaving: it finishes its requests and gets no new ones.",
    "{name} {address} 인스턴스가 이탈 중입니다. 처리 중인 요청만 마치고 새 요청은 받지 않습니다.",
  ],
  health_set_aside: [
    "{name} {address} was set aside after {failures:failure/failures}",
    "{name} {address} 인스턴스를 {failures}회 실패한 뒤 제외했습니다",
  ],
  health_link_down: ["The link to {name} {address} is down", "{name} {address} 인스턴스로 가는 링크가 끊어졌습니다"],
  next_try: ["; next try in {seconds} s.", ". {seconds}초 뒤에 다시 시도합니다."],
  next_try_soon: ["; next try at once.", ". 곧 다시 시도합니다."],
  health_failed: [
    "{number} requests per second fail with a status of 5xx.",
    "초당 {number}개의 요청이 5xx 상태로 실패합니다.",
  ],
  health_more: ["and {n:more problem/more problems}.", "그 밖에 {n}건이 더 있습니다."],

  per_second: ["requests / s", "초당 요청"],
  p50: ["p50, ms", "p50, ms"],
  p99: ["p99, ms", "p99, ms"],
  failed_per_second: ["failed / s", "초당 실패"],
  in_flight: ["in flight", "처리 중"],
  in_flight_n: ["{n} in flight", "{n}개 처리 중"],
  gateway_rate: ["{rate}/s", "{rate}/초"],
  gateway_times: ["p50 {p50} · p99 {p99} ms", "p50 {p50} · p99 {p99} ms"],
  clients: ["clients", "클라이언트"],
  gateway: ["gateway", "게이트웨이"],
  distributor: ["distributor", "분배기"],
  registers: ["registration and list", "등록과 노드 목록"],

  latest: ["Latest packet", "최근 패킷(packet)"],
  latest_way: ["{from} → {to}, {bytes} bytes", "{from} → {to}, {bytes}바이트"],
  latest_none: ["No packet yet. Send a request.", "아직 패킷이 없습니다. 요청을 보내 보십시오."],
  latest_hidden: ["Packets are hidden.", "패킷 내용은 숨겨져 있습니다."],
  send_first: ["Send a request", "요청 보내기"],
  sending: ["Sending …", "보내는 중 …"],
  answer: ["Answer {status}", "응답 {status}"],
  show_journey: ["Show its journey", "여정 보기"],
  not_sampled: [
    "This request was not sampled: the page gets at most 20 per second.",
    "이 요청은 표본에 없습니다. 페이지는 초당 최대 20개의 요청만 받습니다.",
  ],
  failed_to: ["That did not work: {message}", "실패했습니다: {message}"],

  requests: ["Requests", "요청"],
  requests_lead: [
    "Choose a request to replay it packet by packet.",
    "요청(request)을 선택하면 패킷 단위로 재생합니다.",
  ],
  request_id: ["Request id", "요청 ID"],
  route: ["Route", "라우트"],
  status: ["Status", "상태 코드"],
  instance: ["Instance", "인스턴스"],
  any: ["any", "전체"],
  slowest: ["slowest first", "느린 순"],
  as_json: ["as JSON", "JSON으로 보기"],
  requests_none: ["No request yet.", "아직 요청이 없습니다."],
  requests_no_match: ["No request matches.", "조건에 맞는 요청이 없습니다."],
  requests_held: ["The list waits while you point at it.", "목록을 가리키는 동안 갱신을 멈춥니다."],
  requests_lost: ["{n} requests are not shown, because they came too fast.", "너무 빨리 도착한 요청 {n}개는 표시하지 않았습니다."],
  explain_off: [
    "The gateway does not explain requests. Start it with --explain on.",
    "게이트웨이가 요청을 설명하지 않습니다. --explain on으로 시작하십시오.",
  ],

  journey: ["Journey", "여정"],
  journey_none: [
    "Choose a request in the list. Its packets then travel here in slow motion.",
    "목록에서 요청을 선택하십시오. 패킷이 이동하는 과정을 느린 동작으로 보여 줍니다.",
  ],
  journey_gone: ["This request is no longer kept: look keeps the newest 500.", "이 요청은 더 이상 보관되어 있지 않습니다. look은 최근 500개만 보관합니다."],
  play: ["Play", "재생"],
  pause: ["Pause", "일시 정지"],
  step: ["Step", "다음"],
  back: ["Back", "이전"],
  speed: ["Speed", "속도"],
  view_timeline: ["Timeline", "타임라인"],
  view_lanes: ["Lanes", "레인"],
  client: ["client", "클라이언트"],
  database: ["database", "데이터베이스"],
  the_answer: ["the client receives the answer {status}", "클라이언트가 상태 코드 {status}인 응답을 받습니다"],
  step_of: ["Step {n} of {all}", "{all}단계 중 {n}단계"],
  at: ["at {ms} ms", "{ms} ms 시점"],
  took: ["took {us} µs", "{us} µs 걸림"],
  estimate: [
    "≈ is an estimate: clocks are not compared, so the time on the network is halved.",
    "≈는 추정값입니다. 프로세스끼리 시계를 비교하지 않으므로 네트워크 시간을 반으로 나눕니다.",
  ],
  network: [
    "≈ {us} µs were network and waiting, both ways together.",
    "네트워크와 대기에 왕복 약 {us} µs가 걸렸습니다.",
  ],
  packet: ["Packet, {bytes} bytes", "패킷, {bytes}바이트"],
  source: ["Source file", "소스 파일"],
  source_none: ["The source file is shown in development mode only.", "소스 파일은 개발 모드에서만 볼 수 있습니다."],
  loading: ["Loading …", "불러오는 중 …"],

  changes: ["Changes", "변경"],
  changes_lead: [
    "The change feed of users. Open this page in a second window: a write in one appears in both at once.",
    "users의 변경 피드(change feed)입니다. 이 페이지를 두 번째 창에서도 열어 보십시오. 한쪽에서 쓰면 양쪽에 바로 나타납니다.",
  ],
  changes_off: ["The change feed is not connected.", "변경 피드에 연결되어 있지 않습니다."],
  changes_none: ["No change yet.", "아직 변경이 없습니다."],
  created: ["created", "생성"],
  updated: ["updated", "수정"],
  deleted: ["deleted", "삭제"],
  who: ["User", "사용자"],
  new_user: ["a new user", "새 사용자"],
  name: ["Name", "이름"],
  email: ["E-mail", "이메일"],
  create: ["Create", "생성"],
  rename: ["Rename", "이름 변경"],

  switches: ["Switches", "스위치"],
  switches_lead: [
    "Break something, and watch the map. The first switch starts a small load.",
    "무언가를 고장 내고 지도를 지켜보십시오. 첫 스위치를 누르면 작은 부하가 시작됩니다.",
  ],
  load_on: ["Load: 20 / s", "부하: 초당 20개"],
  load_off: ["Load off", "부하 끄기"],
  load_counts: [
    "{per_second}/s · {answered} answered · {failed} failed · longest {longest} ms",
    "초당 {per_second}개 · 응답 {answered} · 실패 {failed} · 최장 {longest} ms",
  ],
  last_switch: ["Last switch:", "마지막 스위치:"],
  which_process: ["Process", "프로세스"],
  do_freeze: ["Freeze", "멈추기"],
  do_continue: ["Continue", "계속"],
  do_kill: ["Kill", "강제 종료"],
  do_stop: ["Stop", "정상 종료"],
  do_restart: ["Restart", "다시 시작"],
  do_start: ["Start another users", "users 하나 더 시작"],
  do_delay: ["Delay 200 ms", "200 ms 지연"],
  do_drop: ["Drop every 3rd", "3개마다 1개 버리기"],
  do_cut: ["Cut the link", "링크 끊기"],
  do_heal: ["Heal the link", "링크 복구"],
  look_freeze: [
    "The process keeps its connections but answers nothing: calls time out, then the gateway sets it aside.",
    "연결은 유지하지만 응답하지 않습니다. 호출이 타임아웃되고, 게이트웨이가 이 인스턴스를 제외합니다.",
  ],
  look_continue: [
    "The process wakes up: late replies are orphans, and the next trial call makes it healthy again.",
    "프로세스가 다시 동작합니다. 늦은 응답은 고아 응답(orphan reply)이 되고, 다음 시험 호출로 다시 정상이 됩니다.",
  ],
  look_kill: [
    "The connections close at once: the box is down within a second, and reads move to another instance.",
    "연결이 즉시 닫힙니다. 1초 안에 중단으로 표시되고, 읽기는 다른 인스턴스로 옮겨 갑니다.",
  ],
  look_stop: [
    "The process drains: it says that it leaves, finishes its requests, and no request fails.",
    "드레인(drain)합니다. 이탈을 알리고 처리 중인 요청을 마치므로 실패하는 요청이 없습니다.",
  ],
  look_restart: [
    "The process starts again at its address: the gateway reconnects within 3 s.",
    "같은 주소로 다시 시작합니다. 게이트웨이가 3초 안에 다시 연결합니다.",
  ],
  look_freeze_gateway: [
    "Clients connect and wait, but get no answer. The services stay up.",
    "클라이언트는 연결되지만 응답을 받지 못하고 기다립니다. 서비스는 정상입니다.",
  ],
  look_continue_gateway: [
    "The gateway answers what waited, and counts the time in p99.",
    "게이트웨이가 밀린 요청에 응답하고, 기다린 시간이 p99에 나타납니다.",
  ],
  look_kill_gateway: [
    "Clients cannot connect until it is started again. No user is lost: the data is with the service.",
    "다시 시작할 때까지 클라이언트가 연결할 수 없습니다. 데이터는 서비스에 있으므로 사용자는 사라지지 않습니다.",
  ],
  look_stop_gateway: [
    "The gateway drains: it answers the requests that have begun and accepts no new ones.",
    "게이트웨이가 드레인(drain)합니다. 시작된 요청에는 응답하고 새 요청은 받지 않습니다.",
  ],
  look_restart_gateway: [
    "The gateway gets the list from the distributor and connects to every instance again.",
    "게이트웨이가 분배기에서 노드 목록을 받아 모든 인스턴스에 다시 연결합니다.",
  ],
  look_freeze_distributor: [
    "Requests continue, because they do not pass the distributor. A new instance cannot register.",
    "요청은 분배기를 거치지 않으므로 계속 처리됩니다. 새 인스턴스는 등록할 수 없습니다.",
  ],
  look_continue_distributor: [
    "The distributor handles the registrations that waited, and pushes the list.",
    "분배기가 밀린 등록을 처리하고 노드 목록을 보냅니다.",
  ],
  look_kill_distributor: [
    "Requests continue: every node keeps the last list, and connects again every 3 s.",
    "요청은 계속 처리됩니다. 모든 노드가 마지막 목록을 유지하고 3초마다 다시 연결합니다.",
  ],
  look_stop_distributor: [
    "The distributor ends in order. Every node keeps the last list, and requests continue.",
    "분배기가 정상 종료합니다. 모든 노드가 마지막 목록을 유지하므로 요청은 계속 처리됩니다.",
  ],
  look_restart_distributor: [
    "The nodes register again within 3 s, and the list is complete again.",
    "노드들이 3초 안에 다시 등록하고, 목록이 다시 완전해집니다.",
  ],
  look_start: [
    "A new box appears: it registers, the distributor pushes the list, and the gateway connects.",
    "새 상자가 나타납니다. 등록하면 분배기가 목록을 보내고, 게이트웨이가 연결합니다.",
  ],
  look_delay: [
    "Each packet waits 200 ms: p99 rises, reads are hedged, and the other instances get more requests.",
    "패킷마다 200 ms를 기다립니다. p99가 오르고, 헤지 읽기(hedged read)가 생기며, 다른 인스턴스가 더 많은 요청을 받습니다.",
  ],
  look_drop: [
    "Every third packet is lost: reads are retried elsewhere, and some writes time out.",
    "패킷 세 개 중 하나가 사라집니다. 읽기는 다른 곳에서 재시도되고, 일부 쓰기는 타임아웃됩니다.",
  ],
  look_cut: [
    "The link stays open but carries nothing, like an unplugged cable: the gateway sets the instance aside.",
    "케이블이 빠진 것처럼 링크는 열려 있지만 아무것도 전달하지 않습니다. 게이트웨이가 이 인스턴스를 제외합니다.",
  ],
  look_heal: [
    "The link is as before: the next trial call succeeds, and the instance is healthy again.",
    "링크가 원래대로 돌아옵니다. 다음 시험 호출이 성공하면 인스턴스가 다시 정상이 됩니다.",
  ],
};

const LANGUAGES = ["en", "ko"];
let column = 0;

export const language = () => LANGUAGES[column];

// The address wins over an earlier choice, and that wins over the browser.
export function chooseLanguage() {
  const wishes = [new URLSearchParams(location.search).get("lang"), stored("lang"), navigator.language.slice(0, 2)];
  setLanguage(wishes.find((wish) => LANGUAGES.includes(wish)) ?? "en");
}

export function setLanguage(wish) {
  column = LANGUAGES.indexOf(wish);
  document.documentElement.lang = wish;
}

// The text as pieces: a piece is a string, or `[name, value]` for a value that was put in.
export function pieces(key, values = {}) {
  const text = TEXTS[key]?.[column] ?? key;
  return text.split(/(\{[^}]*\})/).filter(Boolean).map((piece) => {
    if (!piece.startsWith("{")) return piece;
    const [, name, one, many] = piece.match(/^\{(\w+)(?::(.*)\/(.*))?\}$/);
    const value = values[name] ?? "";
    return [name, one ? `${value} ${value === 1 ? one : many}` : String(value)];
  });
}

export const hasText = (key) => key in TEXTS;

export const t = (key, values) =>
  pieces(key, values).map((piece) => (typeof piece === "string" ? piece : piece[1])).join("");

// A number with at most one decimal, as the language writes it; a dash if there is none.
export function number(value, decimals = 1) {
  if (value === null || value === undefined) return "–";
  return value.toLocaleString(language(), { maximumFractionDigits: value >= 100 ? 0 : decimals });
}

// Storage can be forbidden by the browser. The page then forgets the choice.
export function stored(name) {
  try {
    return localStorage.getItem(`pilcrow-${name}`);
  } catch {
    return null;
  }
}

export function store(name, value) {
  try {
    localStorage.setItem(`pilcrow-${name}`, value);
  } catch { /* see `stored` */ }
}
