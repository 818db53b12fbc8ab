-- What wrk asks for when not every request is the same:
--   wrk -s ask.lua URL -- WRITES METHOD FIRST
-- Of 100 requests, WRITES are writes: POST /users, or PATCH /users/1 to /users/1000. The others read the URL's path.
-- Every write has a number of its own, from FIRST on: no two e-mails are the same.
local writes, method, number, count, read

function init(args)
  writes, method, number = tonumber(args[1]), args[2], tonumber(args[3])
  count, read = 0, wrk.format("GET")
  wrk.headers["Content-Type"] = "application/json"
end

local function write()
  number = number + 1
  if method == "PATCH" then
    local path = string.format("/users/%d", number % 1000 + 1)
    return wrk.format("PATCH", path, nil, string.format('{"name":"User %d"}', number))
  end
  local body = string.format('{"name":"User %d","email":"user%d@example.com"}', number, number)
  return wrk.format("POST", "/users", nil, body)
end

-- Spread evenly over the 100: with 5 writes, every 20th.
function request()
  count = count + 1
  if math.floor(count * writes / 100) > math.floor((count - 1) * writes / 100) then return write() end
  return read
end
