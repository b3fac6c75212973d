-- Names the unit of a request by one of its columns, so that whoever it is about always sees the same variant.
--
-- Runs in the gateway for the requests of a service whose manifest names such a column (the route's metadata), and that
-- name no unit themselves. Reads JSON of V1 and V2; a body that is large, is not JSON or is about several units goes on
-- unnamed, to be answered by chance: what is wrong with it is for the predictor to say.

local LARGEST = 32768 -- bytes; parsed on the thread that serves others
local DEEPEST = 16
local LONGEST = 256 -- bytes of a unit, which travels as a header

local value -- the parser of any value; returns it and the place after it

local ESCAPES = {b = "\b", f = "\f", n = "\n", r = "\r", t = "\t"}

local function utf8(code)
  local function tail(shift) return 0x80 + math.floor(code / shift) % 0x40 end
  if code < 0x80 then return string.char(code) end
  if code < 0x800 then return string.char(0xC0 + math.floor(code / 0x40), tail(1)) end
  if code < 0x10000 then return string.char(0xE0 + math.floor(code / 0x1000), tail(0x40), tail(1)) end
  return string.char(0xF0 + math.floor(code / 0x40000), tail(0x1000), tail(0x40), tail(1))
end

local function pair_of(high, low)
  return utf8(0x10000 + (tonumber(high, 16) - 0xD800) * 0x400 + tonumber(low, 16) - 0xDC00)
end

local function text_at(body, at)
  local parts, from = {}, at + 1
  while true do
    local stop = body:find('["\\]', from)
    if not stop then error("no end of a text") end
    parts[#parts + 1] = body:sub(from, stop - 1)
    if body:sub(stop, stop) == '"' then return table.concat(parts), stop + 1 end
    local kind = body:sub(stop + 1, stop + 1)
    if kind == "u" then
      local high, low = body:match("^\\u([dD][89abAB]%x%x)\\u([dD][c-fC-F]%x%x)", stop)
      parts[#parts + 1] = high and pair_of(high, low) or utf8(tonumber(body:sub(stop + 2, stop + 5), 16))
      from = stop + (high and 12 or 6)
    else
      parts[#parts + 1] = ESCAPES[kind] or kind
      from = stop + 2
    end
  end
end

local function members_at(body, at, depth, last, keyed)
  local found, key = {}, nil
  at = body:find("%S", at + 1)
  if body:sub(at, at) == last then return found, at + 1 end
  while true do
    if keyed then
      key, at = text_at(body, at)
      at = body:match("^%s*:%s*()", at)
    end
    found[key or #found + 1], at = value(body, at, depth + 1)
    local mark
    mark, at = body:match("^%s*([,%]}])%s*()", at)
    if mark == last then return found, at end
  end
end

function value(body, at, depth)
  if depth > DEEPEST then error("too deep") end
  local first = body:sub(at, at)
  if first == "{" then return members_at(body, at, depth, "}", true) end
  if first == "[" then return members_at(body, at, depth, "]", false) end
  if first == '"' then return text_at(body, at) end
  local word, after = body:match("^([%w.+-]+)()", at)
  -- A number stays as it was written; true, false and null name nobody.
  return word:match("^%-?%d") and word or false, after
end

-- The values of a column: of V1's instances, or of V2's inputs.
local function column_of(message, column)
  local values = {}
  for _, row in ipairs(message.instances or {}) do values[#values + 1] = row[column] or false end
  for _, tensor in ipairs(message.inputs or {}) do
    if tensor.name == column then
      for _, item in ipairs(tensor.data) do values[#values + 1] = type(item) == "table" and item[1] or item end
    end
  end
  return values
end

local function unit_of(body, column)
  local message = value(body, body:find("%S"), 1)
  local values = column_of(message, column)
  for _, other in ipairs(values) do
    if type(other) ~= "string" or other ~= values[1] then return nil end
  end
  return values[1]
end

function envoy_on_request(handle)
  local column = handle:metadata():get("unit")
  if not column then return end
  local body = handle:body()
  if not body or body:length() > LARGEST then return end
  local readable, unit = pcall(unit_of, body:getBytes(0, body:length()), column)
  if not readable or not unit or unit == "" or #unit > LONGEST then return end
  local safe = unit:gsub("[^%w_.~-]", function(byte) return string.format("%%%02X", byte:byte()) end)
  handle:headers():replace("x-fti-unit", safe)
  handle:clearRouteCache()
end
