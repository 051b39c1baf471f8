%% The same work under OTP's supervisor, for supervision.py, which calls main with the name of one
%% measurement and a count.
-module(supervision_bench).
-behaviour(supervisor).
-export([main/1, start/1, restarts/1, latency/1, memory/1, stop/1]).
-export([init/1, crasher/3, told/1, sleeper/0, noop/0]).

main([What, N]) ->
    logger:set_primary_config(level, none),
    process_flag(trap_exit, true),
    Measure = list_to_existing_atom(What),
    io:format("~p~n", [?MODULE:Measure(list_to_integer(N))]),
    halt().

init({Strategy, Children}) ->
    {ok, {#{strategy => Strategy, intensity => 10000000, period => 3600}, Children}}.

%% Microseconds for each temporary child that starts and ends at once.
start(N) ->
    Spec = #{id => noop, start => {?MODULE, noop, []}, restart => temporary},
    {ok, Sup} = supervisor:start_link(?MODULE, {simple_one_for_one, [Spec]}),
    Time = timed(fun() -> [supervisor:start_child(Sup, []) || _ <- lists:seq(1, N)] end),
    stop_supervisor(Sup),
    Time / N.

%% Microseconds for each crash and restart, N of them inside the window.
restarts(N) ->
    Count = counters:new(1, []),
    Spec = #{id => child, start => {?MODULE, crasher, [self(), Count, N]}},
    Self = self(),
    Time = timed(fun() ->
        {ok, Sup} = supervisor:start_link(?MODULE, {one_for_one, [Spec]}),
        receive done -> Self ! Sup end
    end),
    receive Sup -> stop_supervisor(Sup) end,
    Time / N.

%% Microseconds from telling a child to crash until its successor runs: the median of N.
latency(N) ->
    Spec = #{id => child, start => {?MODULE, told, [self()]}},
    {ok, Sup} = supervisor:start_link(?MODULE, {one_for_one, [Spec]}),
    Times = [crash_and_wait() || _ <- lists:seq(1, N)],
    stop_supervisor(Sup),
    lists:nth(N div 2, lists:sort(Times)).

crash_and_wait() ->
    receive {up, Pid} -> ok end,
    timed(fun() -> Pid ! crash, receive {up, Next} -> self() ! {up, Next} end end).

%% Bytes for each permanent child that sleeps.
memory(N) ->
    Before = settled_memory(),
    Sup = sleepers(N),
    Bytes = (settled_memory() - Before) / N,
    stop_supervisor(Sup),
    Bytes.

%% Microseconds to stop each of N children, in reverse order, one by one.
stop(N) ->
    Sup = sleepers(N),
    timed(fun() -> stop_supervisor(Sup) end) / N.

sleepers(N) ->
    Specs = [#{id => I, start => {?MODULE, sleeper, []}} || I <- lists:seq(1, N)],
    {ok, Sup} = supervisor:start_link(?MODULE, {one_for_one, Specs}),
    Sup.

stop_supervisor(Sup) ->
    exit(Sup, shutdown),
    receive {'EXIT', Sup, _} -> ok end.

settled_memory() ->
    [erlang:garbage_collect(Pid) || Pid <- processes()],
    erlang:memory(total).

noop() -> {ok, spawn_link(fun() -> ok end)}.

sleeper() -> {ok, spawn_link(fun() -> receive stop -> ok end end)}.

told(Parent) ->
    {ok, spawn_link(fun() -> Parent ! {up, self()}, receive crash -> exit(crash) end end)}.

crasher(Parent, Count, N) ->
    {ok, spawn_link(fun() ->
        counters:add(Count, 1, 1),
        case counters:get(Count, 1) > N of
            true -> Parent ! done, receive stop -> ok end;
            false -> exit(crash)
        end
    end)}.

timed(Fun) ->
    Start = erlang:monotonic_time(nanosecond),
    Fun(),
    (erlang:monotonic_time(nanosecond) - Start) / 1000.
