-- ARGV 2...: permit id, its time to live in microseconds

if redis.call('HEXISTS', permits, ARGV[2]) == 0 then
  return 0
end
redis.call('ZADD', expiries, exactly(now + tonumber(ARGV[3])), ARGV[2])
return 1
