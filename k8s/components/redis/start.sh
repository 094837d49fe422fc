# The password goes by stdin, so that it stands neither in a file nor in the arguments.
exec redis-server /etc/redis/redis.conf - <<EOF
requirepass $REDIS_PASSWORD
EOF
