-- What the memory limiter does, for all quotas of a caller at once. Needs Redis 5 or later.
--
-- KEYS[1]  the cells: 16 bytes for each quota, microseconds since 1970 and parts of one
-- KEYS[2]  the ban: 8 bytes, microseconds since 1970
-- ARGV[1]  take, peek, charge, refund or ban
-- ARGV[2]  40 bytes for each quota: the cost, its part, the tolerance, its part, and how many
--          parts a microsecond has; of a ban, 8 bytes: for how many microseconds
--
-- All numbers are integers of 64 bits, and none that is added up exceeds 2^53. The answer is
-- whether it was paid for, the time, the end of a ban, and the cells as they were.

local op, numbers = ARGV[1], ARGV[2]
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

if op == 'ban' then
  local span = struct.unpack('>I8', numbers)
  if span == 0 then
    redis.call('DEL', KEYS[2])
  else
    redis.call('SET', KEYS[2], struct.pack('>I8', now + span), 'PX', math.ceil(span / 1000))
  end
  return {1, now, 0}
end

local quotas = #numbers / 40
local stored = redis.call('GET', KEYS[1])
if stored and #stored ~= 16 * quotas then
  stored = false -- not ours: as good as new
end

local answer = {1, now, 0}
if op == 'take' or op == 'peek' then
  local ban = redis.call('GET', KEYS[2])
  if ban and #ban == 8 then
    local banned_until = struct.unpack('>I8', ban)
    if banned_until > now then
      answer[1], answer[3] = 0, banned_until
    end
  end
end

local function add(us, part, more_us, more_part, whole)
  part = part + more_part
  if part >= whole then
    return us + more_us + 1, part - whole
  end
  return us + more_us, part
end

local function is_later(us, part, than_us, than_part)
  return us > than_us or (us == than_us and part > than_part)
end

local before, after, is_healed = {}, {}, false
for at = 1, quotas do
  local cost, cost_part, tolerance, tolerance_part, whole =
    struct.unpack('>I8I8I8I8I8', numbers, 40 * (at - 1) + 1)
  local us, part = 0, 0
  if stored then
    us, part = struct.unpack('>I8I8', stored, 16 * (at - 1) + 1)
    us, part = math.min(us, 2 ^ 53), math.min(part, whole - 1)
  end
  local latest, latest_part = add(now, 0, tolerance, tolerance_part, whole)
  local most, most_part = add(latest, latest_part, tolerance, tolerance_part, whole)

  -- What has passed is new. What is further ahead than any debt is of a clock that has stepped
  -- back, or of a larger burst: it is taken for one that has used its burst.
  local held, held_part = us, part
  if us < now then
    held, held_part = now, 0
  elseif is_later(us, part, most, most_part) then
    held, held_part = latest, latest_part
  end

  local new, new_part
  if op == 'refund' then
    new, new_part = us - cost, part - cost_part
    if new_part < 0 then
      new, new_part = new - 1, new_part + whole
    end
    if new < 0 then
      new, new_part = 0, 0
    end
  else
    new, new_part = add(held, held_part, cost, cost_part, whole)
    if op == 'charge' then
      if is_later(new, new_part, most, most_part) then
        new, new_part = most, most_part
      end
    elseif is_later(new, new_part, latest, latest_part) then
      answer[1] = 0
    end
  end

  local i = 2 * at
  answer[i + 2], answer[i + 3] = held, held_part
  after[i - 1], after[i] = new, new_part
  -- More than the burst says nothing about the cell.
  local is_never = is_later(cost, cost_part, tolerance, tolerance_part)
  if is_later(us, part, held, held_part) and not is_never then
    is_healed = true
    before[i - 1], before[i] = held, held_part
  else
    before[i - 1], before[i] = us, part
  end
end

local is_changed = op == 'charge' or op == 'refund' or (op == 'take' and answer[1] == 1)
if op == 'take' and answer[1] == 0 and answer[3] == 0 and is_healed then
  -- Kept, or the refusals would last for as long as the clock has stepped.
  after, is_changed = before, true
end
if is_changed then
  local packed, last = {}, now
  for at = 1, quotas do
    local us, part = after[2 * at - 1], after[2 * at]
    packed[at] = struct.pack('>I8I8', us, part)
    if part > 0 then
      us = us + 1
    end
    last = math.max(last, us)
  end
  if last > now then
    redis.call('SET', KEYS[1], table.concat(packed), 'PX', math.ceil((last - now) / 1000))
  elseif stored then
    redis.call('DEL', KEYS[1])
  end
end
return answer
